"""Compiles the smallest networks of both families for chips that are not there, and writes down XLA's programs
and, as FILE.mlir, what XLA made them of.

python tests/helpers/absent_programs.py KIND TOPOLOGY FILE
"""

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

from benchmarks.chips import ENVIRONMENT, devices_of

os.environ |= ENVIRONMENT

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec as P

from densenet_flax import DenseNet
from layers_flax import architecture, target_backend, variables_by_shape
from resnet_flax import BasicBlock, ResNet, ResNetOptions
from training_flax import TrainConfig
from training_flax.learn.state import start_state
from training_flax.learn.steps import make_train_step
from training_flax.run.plan import plan
from training_flax.run.programs import lower_train_step
from training_flax.runtime.devices import Devices
from weights_flax import export

IMAGE = (32, 32, 3)
ROWS = 64  # images a chip
RESNET = partial(ResNet, (1, 1), BasicBlock, num_classes=10, stem_type="cifar", width=16, dtype=jnp.bfloat16)
DENSENET = partial(DenseNet, (2, 2), 8, 10, "cifar", dtype=jnp.bfloat16)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def step(make, devices):
    """A training step of a network."""
    model = make(axis_name=devices.model_axis_name)
    train = make_train_step(model, OPTIMIZER, axis_name=devices.axis_name)
    start = partial(start_state, optimizer=OPTIMIZER)
    state = jax.eval_shape(start, variables_by_shape(model, IMAGE), key=jax.random.key(0))
    rows = ROWS * devices.count
    batch = jax.ShapeDtypeStruct((rows, *IMAGE), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    return devices.map_step(lambda state, _, batch: train(state, *batch), (state, None, batch))


@architecture("Tests", stem_type="cifar", num_classes=10, width=16)
def resnet4(**options: Unpack[ResNetOptions]) -> ResNet:
    """A network of two layers for 32 pixels."""
    return ResNet((1,), BasicBlock, **options)


def run(devices):
    """A step of train.py, with a data set on each chip."""
    config = TrainConfig("resnet4", width=4, data="fake:32x32x3:10:50000", batch_size=ROWS, dtype="bfloat16", steps=2)
    return lower_train_step(plan(config, devices=devices))


def logits(make, devices):
    """A folded network."""
    model = make().clone(folded=True)
    images = jax.ShapeDtypeStruct((ROWS, 64, 64, 3), jnp.float32)
    shapes = variables_by_shape(model, IMAGE)
    return devices.map_rows(lambda variables, _, images: model.apply(variables, images), (shapes, None, images))


def exported(make, devices):
    """A program that was exported here, on a CPU."""
    model = make().clone(folded=True)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables_by_shape(model, IMAGE))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network"
        export(model, variables, file, image_shape=(64, 64, 3))
        program = jax.export.deserialize(bytearray(file.read_bytes()))
    on = NamedSharding(devices.mesh, P())
    return jax.jit(program.call, in_shardings=on).lower(jax.ShapeDtypeStruct((ROWS, 64, 64, 3), jnp.float32))


def main(kind, topology, file):
    what, _, family = kind.partition(" ")
    make = {"resnet": RESNET, "densenet": DENSENET}.get(family)
    with target_backend("gpu" if topology.startswith("cuda") else "tpu"):
        devices = Devices("pmap" if what == "pmap" else "jit", devices=devices_of(topology))
        lowered = {
            "jit": lambda: step(make, devices),
            "pmap": lambda: step(make, devices),
            "run": lambda: run(devices),
            "folded": lambda: logits(make, devices),
            "exported": lambda: None,
        }[what]()
    if what == "exported":
        lowered = exported(make, devices)
    Path(f"{file}.mlir").write_text(lowered.as_text())
    Path(file).write_text(lowered.compile().as_text())


if __name__ == "__main__":
    main(*sys.argv[1:])

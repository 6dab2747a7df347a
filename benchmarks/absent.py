"""Traces one step of ours or of Flax by hand for chips that are not there: what a step is, on which devices."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from benchmarks.chips import devices_of
from layers_flax import count_multiply_adds, target_backend, variables_by_shape
from training_flax.learn.state import start_state
from training_flax.learn.steps import make_train_step
from training_flax.runtime.compilation import garbage_left
from training_flax.runtime.devices import Devices
from weights_flax import build_model

SMALL = ("resnet20", "resnet56", "densenet_bc_100_12", "wide_resnet28_10")
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


@dataclass(frozen=True)
class AbsentWork:
    """A step in bfloat16 on chips that are not there.

    Attributes:
        arch: the architecture.
        topology: such as "v5e:2x4" or "cuda:8".
        batch: images a chip.
        train: a training step; else the logits of evaluation, of a folded network where it is ours.
        parallel: "jit" or "pmap"; of ours.
        remat: recompute in the backward pass; of ours.
    """

    arch: str
    topology: str
    batch: int
    train: bool = True
    parallel: str = "jit"
    remat: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (32, 32, 3) if self.arch in SMALL else (224, 224, 3)

    @property
    def classes(self) -> int:
        return 10 if self.arch in SMALL else 1000

    def flops(self) -> float:
        """Operations of convolutions and dense layers a chip; of a training step three times the forward pass's."""
        forward = 2 * count_multiply_adds(build_model(self.arch, num_classes=self.classes), self.image_shape)
        return float(forward * self.batch * (3 if self.train else 1))

    def lower(self, who: str) -> jax.stages.Lowered:
        """Traces the step of "ours" or "naive"."""
        chips = devices_of(self.topology)
        rows = self.batch * len(chips)
        images = jax.ShapeDtypeStruct((rows, *self.image_shape), jnp.float32)
        labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
        if who == "naive":
            return self._naive(chips, images, labels)
        with garbage_left(), target_backend("gpu" if self.topology.startswith("cuda") else "tpu"):
            return self._ours(chips, images, labels)

    def _ours(self, chips: Any, images: Any, labels: Any) -> jax.stages.Lowered:
        devices = Devices(self.parallel, devices=chips)
        options: dict[str, Any] = dict(num_classes=self.classes, dtype=jnp.bfloat16)
        if not self.train:
            model = build_model(self.arch, **options).clone(folded=True)
            run = partial(model.apply, train=False)
            shapes = (variables_by_shape(model, self.image_shape), None, images)
            return devices.map_rows(lambda variables, _, images: run(variables, images), shapes)
        if self.remat:
            options["remat"] = True
        model = build_model(self.arch, axis_name=devices.model_axis_name, **options)
        step = make_train_step(model, OPTIMIZER, axis_name=devices.axis_name)
        start = partial(start_state, optimizer=OPTIMIZER)
        state = jax.eval_shape(start, variables_by_shape(model, self.image_shape), key=jax.random.key(0))
        state = jax.tree.map(partial(_placed, sharding=devices.replicated), state)
        return devices.map_step(lambda state, _, batch: step(state, *batch), (state, None, (images, labels)))

    def _naive(self, chips: Any, images: Any, labels: Any) -> jax.stages.Lowered:
        from benchmarks.peers.naive import MODELS, training_step

        mesh = Mesh(np.array(chips), ("data",))
        same, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        model = MODELS[self.arch].clone(dtype=jnp.bfloat16)
        one = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), one)
        if not self.train:
            run = partial(model.apply, train=False)
            return jax.jit(run, in_shardings=(same, spread), out_shardings=same).lower(variables, images)
        opt_state = jax.eval_shape(OPTIMIZER.init, variables["params"])
        state = (variables["params"], variables["batch_stats"], opt_state)
        step = jax.jit(
            training_step(model, OPTIMIZER), in_shardings=(same, spread, spread), out_shardings=same, donate_argnums=0
        )
        return step.lower(state, images, labels)


def _placed(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

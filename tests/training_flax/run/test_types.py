"""The type of a run: a step of a float64 run, from bytes of images to the new state, computes nothing in float32."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from layers_flax.nn.normalise import normalise
from resnet_flax import resnet20
from training_flax import TrainConfig, evaluate, init_state, make_train_step, plan
from training_flax.learn.evaluation import make_indexed_eval_step
from training_flax.learn.optimizers import make_optimizer
from training_flax.run.programs import _shapes, make_loader, state_by_shape

PLAIN = dict(augment=("none",), schedule="constant")
MOVED = ("affine", "pad-crop:2", "flip", "color:0.4", "rand-augment:6")
CASES = {
    "sgd": dict(momentum=0.0),
    "momentum": {},
    "nesterov": dict(nesterov=True, decay="kernels"),
    "adamw": dict(optimizer="adamw"),
    "lamb": dict(optimizer="lamb", decay="kernels"),
    "steps": dict(schedule="step"),
    "cosine": dict(schedule="cosine"),
    "warm-up and constant": dict(warmup=0.2),
    "warm-up and steps": dict(schedule="step", warmup=0.2, warmup_lr=0.01),
    "warm-up and cosine": dict(schedule="cosine", warmup=0.2),
    "constant warm-up": dict(schedule="step", warmup=0.2, warmup_lr=0.01, warmup_shape="constant"),
    "scaled rate": dict(lr_scaling="linear"),
    "clipping": dict(clip_norm=1.0),
    "average": dict(ema=0.9),
    "average without warm-up": dict(ema=0.9, ema_warmup=False),
    "accumulation": dict(accumulate=2),
    "smoothing": dict(label_smoothing=0.1),
    "binary": dict(loss="binary"),
    "mixup": dict(mixup=0.2),
    "cutmix": dict(cutmix=1.0),
    "both, smooth": dict(mixup=0.2, cutmix=1.0, label_smoothing=0.1, loss="binary"),
    "augmentation": dict(augment=MOVED, augment_until=0.5),
    "crops": dict(augment=("random-resized-crop",)),
    "freeze": dict(freeze=("conv1/*",), ema=0.9),
    "frozen BatchNorm": dict(frozen_batch_norm=True),
    "stochastic depth": dict(drop_path=0.2),
    "remat": dict(remat=True),
    "zero scales": dict(zero_init=True),
    "dropout": dict(arch="vgg11_bn", dropout=0.5, width=4),
    "DenseNet": dict(arch="densenet_bc_40_12", dropout=0.2, growth_rate=2, width=None),
    "DenseNet, remat": dict(arch="densenet_bc_40_12", remat=True, growth_rate=2, width=None),
}


def planned(tmp_path, **options):
    small = dict(
        width=4, data="fake:32x32x3:4:64", batch_size=16, steps=12, recipe="he2015-cifar", out=tmp_path / "run"
    )
    return plan(TrainConfig(**dict(arch="resnet20", dtype="float64") | small | PLAIN | options))


def programs(job):
    """The training step and the evaluation step of a run, traced."""
    config, (split, batch) = job.config, _shapes(job.dataset.train, job.batch_size)
    names = ("label_smoothing", "loss", "accumulate", "ema", "ema_warmup", "freeze")
    chosen = {name: getattr(config, name) for name in names}
    step, load = make_train_step(job.model, make_optimizer(config, job.total_steps), **chosen), make_loader(job)

    def train(state, split, batch):
        images, targets = load(state.key, split, batch)
        return step(state, normalise(images, job.dataset.mean, job.dataset.std, job.image_dtype), targets)

    state = state_by_shape(job)
    yield jax.make_jaxpr(train)(state, split, batch).jaxpr
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    evaluation = make_indexed_eval_step(job.eval_model, job.dataset, job.image_dtype)
    yield jax.make_jaxpr(evaluation)(variables, split, batch).jaxpr


def types(jaxpr, found=None):
    """Counts the types of all values of a program, those of inner programs too."""
    found = Counter() if found is None else found
    found.update(str(v.aval.dtype) for v in (*jaxpr.constvars, *jaxpr.invars) if hasattr(v.aval, "dtype"))
    for equation in jaxpr.eqns:
        found.update(str(v.aval.dtype) for v in equation.outvars if hasattr(v.aval, "dtype"))
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                types(inner, found)
    return found


NARROW = {"float32", "float16", "bfloat16"}


@pytest.mark.parametrize("name", CASES)
def test_a_float64_step_has_no_narrower_number(x64, tmp_path, name):
    for program in programs(planned(tmp_path, **CASES[name])):
        found = types(program)
        assert found["float64"] > 100
        assert not found.keys() & NARROW, found


def test_narrower_numbers_would_be_found(x64, tmp_path):
    """The count sees inner programs: the same step in float32 is full of them."""
    for program in programs(planned(tmp_path, dtype="float32")):
        assert types(program)["float32"] > 100


def test_the_metrics_of_a_float64_step_are_float64(x64):
    model, images = resnet20(width=2, param_dtype=jnp.float64), jnp.ones((4, 8, 8, 3), jnp.float64)
    optimizer = make_optimizer(TrainConfig("resnet20", recipe="he2015-cifar"), 10)
    state = init_state(model, optimizer, jax.random.key(0), images)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)
    _, metrics = jax.eval_shape(make_train_step(model, optimizer), state, images, labels)
    assert {leaf.dtype for leaf in (metrics.loss, metrics.accuracy, metrics.gradient_norm)} == {jnp.dtype("float64")}


def test_float64_variables_are_evaluated_in_float64(x64, tmp_path):
    """The images are normalised in the type of the variables, as the run's own evaluation does it."""
    job = planned(tmp_path, width=2, data="fake:8x8x3:4:64")
    variables = job.model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), train=False)
    found = evaluate(job.eval_model, variables, job.dataset, 64).loss
    images = normalise(jnp.asarray(job.dataset.test.images), job.dataset.mean, job.dataset.std, jnp.float64)
    logits = jax.jit(lambda v, x: job.eval_model.apply(v, x, train=False))(variables, images)
    losses = -jax.nn.log_softmax(logits)[np.arange(256), job.dataset.test.labels]
    assert found == pytest.approx(float(losses.mean()), rel=1e-13)

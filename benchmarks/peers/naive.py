"""ResNet and DenseNet as users write them by hand in Flax, with only `nn.Conv`, `nn.BatchNorm` and `nn.max_pool`."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks.works import Work, compiled_facts


def imagenet_stem(x, width, conv, norm):
    x = nn.relu(norm()(conv(width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
    return nn.max_pool(x, (3, 3), (2, 2), "SAME")


class Layered(nn.Module):
    dtype: Any = jnp.float32

    def layers(self, train: bool) -> tuple[Callable[..., nn.Conv], Callable[..., nn.BatchNorm]]:
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)
        return partial(nn.Conv, use_bias=False, dtype=self.dtype), norm


class Block(Layered, kw_only=True):
    width: int
    stride: int = 1
    inner: int | None = None
    groups: int = 1


class Bottleneck(Block):
    @nn.compact
    def __call__(self, x, train):
        (conv, norm), strides, inner = self.layers(train), (self.stride, self.stride), self.inner or self.width
        y = nn.relu(norm()(conv(inner, (1, 1))(x)))
        y = nn.relu(norm()(conv(inner, (3, 3), strides, feature_group_count=self.groups)(y)))
        y = norm(scale_init=nn.initializers.zeros)(conv(self.width * 4, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(self.width * 4, (1, 1), strides)(x))
        return nn.relu(x + y)


class Basic(Block):
    @nn.compact
    def __call__(self, x, train):
        (conv, norm), strides = self.layers(train), (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.width, (3, 3), strides)(x)))
        y = norm()(conv(self.width, (3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv(self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class PreActBasic(Block):
    @nn.compact
    def __call__(self, x, train):
        (conv, norm), strides = self.layers(train), (self.stride, self.stride)
        y = nn.relu(norm()(x))
        if x.shape[-1] != self.width:
            x = conv(self.width, (1, 1), strides)(y)
        y = nn.relu(norm()(conv(self.width, (3, 3), strides)(y)))
        return x + conv(self.width, (3, 3))(y)


class NaiveNet(Layered, kw_only=True):
    sizes: tuple[int, ...]
    classes: int = 1000
    small: bool = False


class ResNet(NaiveNet):
    block: Any = Bottleneck
    stem: int = 64
    width: int = 64
    inner: int | None = None
    groups: int = 1

    @nn.compact
    def __call__(self, x, train):
        conv, norm = self.layers(train)
        before = self.block is PreActBasic
        if not self.small:
            x = imagenet_stem(x, self.stem, conv, norm)
        elif before:
            x = conv(self.stem, (3, 3))(x)
        else:
            x = nn.relu(norm()(conv(self.stem, (3, 3))(x)))
        for i, size in enumerate(self.sizes):
            inner = self.inner and self.inner * 2**i
            for j in range(size):
                options = dict(stride=2 if i > 0 and j == 0 else 1, inner=inner, groups=self.groups, dtype=self.dtype)
                x = self.block(width=self.width * 2**i, **options)(x, train)
        if before:
            x = nn.relu(norm()(x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class DenseNet(NaiveNet):
    growth: int = 32
    stem: int = 64

    @nn.compact
    def __call__(self, x, train):
        conv, norm = self.layers(train)
        x = conv(self.stem, (3, 3))(x) if self.small else imagenet_stem(x, self.stem, conv, norm)
        for i, size in enumerate(self.sizes):
            for _ in range(size):
                y = conv(4 * self.growth, (1, 1))(nn.relu(norm()(x)))
                y = conv(self.growth, (3, 3))(nn.relu(norm()(y)))
                x = jnp.concatenate([x, y], -1)
            if i < len(self.sizes) - 1:
                x = conv(x.shape[-1] // 2, (1, 1))(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.classes)(nn.relu(norm()(x)).mean((1, 2)))


def cifar(sizes: tuple[int, ...], **options: Any) -> ResNet:
    return ResNet(**dict(sizes=sizes, classes=10, small=True, block=Basic, stem=16, width=16) | options)


MODELS = {
    "resnet50": ResNet(sizes=(3, 4, 6, 3)),
    "resnext50_32x4d": ResNet(sizes=(3, 4, 6, 3), inner=128, groups=32),
    "densenet121": DenseNet(sizes=(6, 12, 24, 16)),
    "densenet201": DenseNet(sizes=(6, 12, 48, 32)),
    "resnet20": cifar((3, 3, 3)),
    "resnet32": cifar((5, 5, 5)),
    "resnet44": cifar((7, 7, 7)),
    "resnet56": cifar((9, 9, 9)),
    "wide_resnet28_10": cifar((4, 4, 4), block=PreActBasic, width=160),
    "densenet_bc_100_12": DenseNet(sizes=(16, 16, 16), classes=10, small=True, growth=12, stem=24),
}


Step = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]


def training_step(model: NaiveNet, optimizer: optax.GradientTransformation) -> Step:
    """Returns the function (state, images, labels) → (state, loss); a state is (params, batch_stats, opt_state)."""

    def step(state, images, labels):
        params, stats, opt_state = state

        def loss_of(params):
            logits, updates = model.apply({"params": params, "batch_stats": stats}, images, True, mutable="batch_stats")
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates["batch_stats"]

        (loss, new_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), new_stats, opt_state), loss

    return step


def prepare(work: Work) -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns a function that does the work once and waits for the result, and compile time and memory."""
    model = MODELS[work.arch]
    images, labels = map(jnp.asarray, work.data())
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])

    step = training_step(model, optimizer)
    start = time.perf_counter()
    if work.train:
        compiled = jax.jit(step, donate_argnums=0).lower(state, images, labels).compile()
    else:
        compiled = jax.jit(partial(model.apply, train=False)).lower(variables, images).compile()
    facts = compiled_facts(compiled, start)

    def run() -> None:
        nonlocal state
        if work.train:
            state, loss = compiled(state, images, labels)
            jax.block_until_ready((state, loss))
        else:
            compiled(variables, images).block_until_ready()

    return run, facts

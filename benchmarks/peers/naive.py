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

conv = partial(nn.Conv, use_bias=False)


def norm_of(train: bool) -> Callable[..., nn.BatchNorm]:
    return partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)


def imagenet_stem(x, width, norm):
    x = nn.relu(norm()(conv(width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
    return nn.max_pool(x, (3, 3), (2, 2), "SAME")


class Block(nn.Module):
    width: int
    stride: int = 1


class Bottleneck(Block):
    @nn.compact
    def __call__(self, x, train):
        norm, strides = norm_of(train), (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), strides)(y)))
        y = norm(scale_init=nn.initializers.zeros)(conv(self.width * 4, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(self.width * 4, (1, 1), strides)(x))
        return nn.relu(x + y)


class Basic(Block):
    @nn.compact
    def __call__(self, x, train):
        norm, strides = norm_of(train), (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.width, (3, 3), strides)(x)))
        y = norm()(conv(self.width, (3, 3))(y))
        if x.shape != y.shape:
            x = norm()(conv(self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class NaiveNet(nn.Module):
    sizes: tuple[int, ...]
    classes: int = 1000
    small: bool = False


class ResNet(NaiveNet):
    block: Any = Bottleneck
    width: int = 64

    @nn.compact
    def __call__(self, x, train):
        norm = norm_of(train)
        x = nn.relu(norm()(conv(self.width, (3, 3))(x))) if self.small else imagenet_stem(x, self.width, norm)
        for i, size in enumerate(self.sizes):
            for j in range(size):
                x = self.block(self.width * 2**i, 2 if i > 0 and j == 0 else 1)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class DenseNet(NaiveNet):
    growth: int = 32
    stem: int = 64

    @nn.compact
    def __call__(self, x, train):
        norm = norm_of(train)
        x = conv(self.stem, (3, 3))(x) if self.small else imagenet_stem(x, self.stem, norm)
        for i, size in enumerate(self.sizes):
            for _ in range(size):
                y = conv(4 * self.growth, (1, 1))(nn.relu(norm()(x)))
                y = conv(self.growth, (3, 3))(nn.relu(norm()(y)))
                x = jnp.concatenate([x, y], -1)
            if i < len(self.sizes) - 1:
                x = conv(x.shape[-1] // 2, (1, 1))(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.classes)(nn.relu(norm()(x)).mean((1, 2)))


MODELS = {
    "resnet50": ResNet((3, 4, 6, 3)),
    "densenet121": DenseNet((6, 12, 24, 16)),
    "resnet20": ResNet((3, 3, 3), 10, True, Basic, 16),
    "resnet32": ResNet((5, 5, 5), 10, True, Basic, 16),
    "resnet44": ResNet((7, 7, 7), 10, True, Basic, 16),
    "resnet56": ResNet((9, 9, 9), 10, True, Basic, 16),
    "densenet_bc_100_12": DenseNet((16, 16, 16), 10, True, 12, 24),
}


def prepare(work: Work) -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns a function that does the work once and waits for the result, and compile time and memory."""
    model = MODELS[work.arch]
    images, labels = map(jnp.asarray, work.data())
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])

    def step(state, images, labels):
        params, stats, opt_state = state

        def loss_of(params):
            logits, updates = model.apply({"params": params, "batch_stats": stats}, images, True, mutable="batch_stats")
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates["batch_stats"]

        (loss, new_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), new_stats, opt_state), loss

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

"""A network on the devices that predicts the most probable classes of batches of images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.checks import check_positive
from layers_flax import Network
from layers_flax.nn.normalise import normalise
from training_flax.data.decode import with_channels
from training_flax.data.loader import ahead
from training_flax.learn.evaluation import whole_batch
from training_flax.runtime.compilation import compiler_options
from training_flax.runtime.devices import Devices
from weights_flax import fold_batch_norm

TOP = 5
WORTH_FOLDING = 256  # images: folding takes a second or two, and saves a fifth of the time or more


class Predictions(NamedTuple):
    """The most probable classes of images, in the order of `torch.topk(logits.softmax(-1), top)`, or of sigmoid."""

    probabilities: Any  # (images, top) float32
    classes: Any  # (images, top) int32


def image_channels(model: nn.Module, variables: Mapping[str, Any]) -> int:
    """Returns the number of channels of a network's images."""
    return model.first_kernel(variables).shape[2]


@cache
def _jitted() -> Any:
    """Returns the jitted function of all classifiers; made at the first call, because this starts JAX's backend."""
    return jax.jit(_likeliest, static_argnames=("model", "top", "multi_label"), compiler_options=compiler_options())


def _likeliest(
    model: nn.Module, top: int, multi_label: bool, variables: Any, images: jax.Array, mean: Any, std: Any
) -> Predictions:
    dtype = jnp.promote_types(getattr(model, "param_dtype"), jnp.float32)  # noqa: B009
    logits: Any = model.apply(variables, normalise(images, mean, std, dtype), train=False)
    logits = logits.astype(dtype)
    if multi_label:  # logits, unlike probabilities, tell classes apart that are almost sure
        largest, classes = jax.lax.top_k(logits, top)
        return Predictions(jax.nn.sigmoid(largest), classes)
    probabilities, classes = jax.lax.top_k(jax.nn.softmax(logits), top)
    return Predictions(probabilities, classes)


class Classifier:
    """A network on the devices that predicts the most probable classes of a batch.

    For many images its BatchNorms are folded (`weights_flax.fold_batch_norm`), which is faster, and equal within
    rounding.

    Args:
        images: the number of images that will come; a batch is not larger.
        model, variables, mean, std, top, batch_size, multi_label: see `predict`, also for errors.

    Attributes:
        batch_size: images at a time, a multiple of the number of devices.
        top: number of classes per image.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        top: int | None,
        batch_size: int,
        images: int,
        multi_label: bool = False,
    ):
        check_positive("batch_size", batch_size)
        num_classes: int = getattr(model, "num_classes")  # noqa: B009
        self.top = min(TOP, num_classes) if top is None else top
        if not 1 <= self.top <= num_classes:
            raise ValueError(f"top must be from 1 to the number of classes, {num_classes}; given {top!r}")
        self._channels = channels = image_channels(model, variables)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels) or not np.isfinite(values).all() or (name == "std" and 0 in values):
                what = "number" + "s" * (channels > 1) + ", none of them 0" * (name == "std")
                raise ValueError(f"{name} must be {channels} {what}, one for each channel; given {tuple(values)}")
        self._devices = Devices()
        self.batch_size = whole_batch(min(batch_size, max(images, 1)), self._devices)
        if images >= WORTH_FOLDING and isinstance(model, Network) and not model.folded:
            model, variables = fold_batch_norm(model, variables)
        self._model, self._multi_label = model, multi_label
        self._step: Callable[..., Predictions] = partial(_jitted(), model, self.top, multi_label)
        self._variables = self._devices.replicate(jax.device_get(dict(variables)))
        widest = jax.dtypes.canonicalize_dtype(np.float64)
        self._moments = self._devices.replicate([np.asarray(values, widest) for values in (mean, std)])

    def compile(self, image_shape: tuple[int, int, int]) -> None:
        """Compiles for images of one shape ahead of time."""
        images = jax.ShapeDtypeStruct((self.batch_size, *image_shape), np.uint8, sharding=self._devices.spread)
        static = self._model, self.top, self._multi_label
        self._step = _jitted().lower(*static, self._variables, images, *self._moments).compile()

    def start(self, images: np.ndarray) -> Predictions:
        """Starts on a batch, (up to batch_size, height, width, channels) uint8, filled up with its last image.

        Returns arrays on the devices, of batch_size rows.
        """
        missing = self.batch_size - len(images)
        full = np.concatenate([images, images[-1:].repeat(missing, 0)]) if missing else images
        return self._step(self._variables, self._devices.put_rows(full), *self._moments)

    def in_batches(self, images: Any) -> Iterator[Predictions]:
        """Yields the predictions of images of one shape, batch by batch; the devices work one batch ahead."""
        starts = range(0, len(images), self.batch_size)
        batches = (np.asarray(images[start : start + self.batch_size]) for start in starts)
        started = ((len(batch), self.start(with_channels(batch, self._channels))) for batch in batches)
        for count, results in ahead(2, started):
            yield told(count, results)


def told(count: int, results: Predictions) -> Predictions:
    """Waits for results on the devices and returns their first `count` rows."""
    return Predictions(*(rows[:count] for rows in jax.device_get(results)))

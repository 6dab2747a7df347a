"""The contract of a network: the methods that a family writes, and those that it inherits."""

import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common_flax.checks import MOST_PIXELS, one_of
from common_flax.renamed import renamed_keyword
from layers_flax.conv.chunks import folded_logits
from layers_flax.conv.conv import Conv, ImageTooSmall
from layers_flax.conv.inference_conv import inference_conv2d
from layers_flax.nn.batch_norm import RUNNING_VARIANCES, BatchNorm
from layers_flax.nn.channel_affine import ScaleShift, check_inference
from layers_flax.nn.pooling import global_avg_pool

LARGEST = isqrt(MOST_PIXELS)  # pixels of a side


class Network(nn.Module, kw_only=True):
    """A network of stem, stages and head; the base of `ResNet`, `VGG` and `DenseNet`.

    A family is a subclass with `num_classes`, `stage_sizes` (blocks of each stage) and these methods, each of which
    takes `train` last:

    - `stem(images)`: (batch, height, width, channels) to the input of the first stage;
    - `stage(x, index)`: the output of a stage, counted from 0;
    - `last_map(x)`: the last stage's output to the map that is pooled; here it is the output itself;
    - `classify(x)`: (batch, channels) to logits.

    The parts can be called one by one with the same variables: `model.apply(variables, images, method="stem")`,
    `(…, x, 0, method="stage")`, `(…, x, method="head")`. `init` returns exactly {"params", "batch_stats"}.

    Attributes:
        frozen_batch_norm: running statistics normalise in training too, and stay as they are.
        running_variance: "biased" or "unbiased", see `BatchNorm`.
        dtype: the compute type; None is the promotion of images and parameters. Logits are at least float32.
        param_dtype: type of the parameters; BatchNorm's statistics are float32 or wider.
        axis_name: a mapped axis over which batch statistics are taken.
        folded: for inference alone, as `weights_flax.fold_batch_norm` makes it: a BatchNorm behind a convolution is
            part of it, any other is a scale and a shift.
        first_conv: name of the convolution that sees the images, among the parameters.
        torch_head: name of the classifier under PyTorch.
        classifies_mean: the classifier sees the mean of the last map over all pixels.
    """

    frozen_batch_norm: bool = False
    running_variance: str = "biased"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    folded: bool = False

    first_conv: ClassVar[str] = ""
    torch_head: ClassVar[str] = ""
    classifies_mean: ClassVar[bool] = True

    def __init_subclass__(cls, kw_only: bool = False, **kwargs: Any):
        super().__init_subclass__(kw_only=kw_only, **kwargs)
        made = renamed_keyword(cls.__init__, stem_kind="stem_type", stem="stem_type")
        setattr(cls, "__init__", made)  # noqa: B010

    def __post_init__(self) -> None:
        one_of("running_variance", self.running_variance, RUNNING_VARIANCES)
        for name in ("dtype", "param_dtype"):
            _check_float_type(name, getattr(self, name))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool | np.bool_):
                raise ValueError(f"{field.name} must be True or False; given {value!r}")
            # Tuples and Python's integers can be hashed and written to files, as lists and NumPy's cannot.
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            elif isinstance(value, np.integer):
                object.__setattr__(self, field.name, int(value))
        super().__post_init__()

    if TYPE_CHECKING:
        # Flax's own type is a union that has to be taken apart at each call, whatever `mutable` is.
        def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
            """Runs the network, or `method`, with `variables`."""

    @property
    def stem_kind(self) -> str:
        """The old name of `stem_type`."""
        warnings.warn("stem_kind is stem_type now", DeprecationWarning, stacklevel=2)
        return getattr(self, "stem_type")  # noqa: B009

    @property
    def join(self) -> str | None:
        """The way in which a block joins its input with its residual: "add", "relu" (of the sum) or "concatenate".

        None stands for a family whose stages have no residual blocks.
        """
        return None

    @property
    def has_shortcuts(self) -> bool:
        """True if each block hands its input on beside its residual."""
        return self.join is not None

    @property
    def published_size(self) -> int:
        """Pixels of a side of the images that it was published for: 32 with a stem for small images, else 224."""
        return 32 if getattr(self, "stem_type", "imagenet") == "cifar" else 224

    @staticmethod
    def torch_module(path: tuple[str, ...]) -> str:
        """PyTorch's name of the module at `path` among the variables."""
        return ".".join(path)

    @staticmethod
    def torch_spelling(name: str) -> str:
        """Today's spelling of a name in a state dict, which old files may spell otherwise."""
        return name

    @nn.nowrap
    def torch_options(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
        """Options of the constructor that a state dict shows, other than the number of classes.

        Args:
            shapes: PyTorch's names to shapes.

        Returns:
            Names to values; None where the stages have other sizes than this network's, as far as names tell quickly.
        """
        return {}

    @nn.nowrap
    def first_kernel(self, variables: Mapping[str, Any]) -> Any:
        """The kernel that sees the images, (height, width, channels, features), out of {"params", …}.

        Raises:
            ValueError: the variables are another network's.
        """
        layer = variables.get("params", {}).get(self.first_conv, {})
        if "kernel" not in layer:
            raise ValueError("the variables are not the model's: they have no first convolution")
        return layer["kernel"]

    @nn.nowrap
    def conv_and_norm(self, **options: Any) -> tuple[Callable[..., Conv], Callable[..., nn.Module]]:
        """The makers of convolutions and of norms, with the network's types and `options` of convolutions bound."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.folded:
            return partial(Conv, convolve=inference_conv2d, **types, **options), partial(ScaleShift, **types)
        statistics: dict[str, Any] = dict(running_variance=self.running_variance, axis_name=self.axis_name)
        return partial(Conv, **types, **options), partial(
            BatchNorm, frozen=self.frozen_batch_norm, **statistics, **types
        )

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images (batch, height, width, channels) to logits (batch, num_classes), float32 or wider.

        With `train`, BatchNorm takes the batch's statistics, and updates the running ones if they are mutable. Raises
        ValueError, which names the least size, for images that are too small.
        """
        try:
            return self._run(images, train)
        except ImageTooSmall as error:
            least = self._least_size(images.shape[-1])
            needs = f"needs at least {least}×{least}" if least else f"takes none of up to {LARGEST}×{LARGEST}"
            raise ValueError(f"{error}; {type(self).__name__} {needs}") from None

    def _run(self, images: jax.Array, train: bool) -> jax.Array:
        if train and images.shape[:1] == (0,) and self.variables.get("batch_stats"):
            raise ValueError("an empty batch has no statistics to train with; give at least one image")
        # Dense layers on a whole map, as VGG has, are too large to be read again for each chunk.
        if self.folded and not train and self.classifies_mean:
            return folded_logits(self, images)
        return self.at_once(images, train)

    @nn.nowrap
    def _least_size(self, channels: int) -> int | None:
        """The pixels of a side of the smallest square images that the network takes; None if it takes none."""
        alone: Any = self.clone(parent=None, name=None, folded=False)

        def fits(size: int) -> bool:
            images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
            try:
                jax.eval_shape(partial(alone.init, train=False, method="at_once"), jax.random.key(0), images)
            except ImageTooSmall:
                return False
            return True

        most = 1
        while not fits(most):
            if most >= LARGEST:
                return None
            most *= 2
        return most // 2 + 1 + bisect_left(range(most // 2 + 1, most), True, key=fits)

    def at_once(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The same as a call, but never in chunks, as folded networks run (`layers_flax.folded_logits`)."""
        network: Any = self
        x = network.stem(images, train)
        for index in range(len(network.stage_sizes)):
            x = network.stage(x, index, train)
        return self.head(x, train)

    def head(self, x: jax.Array, train: bool = False, **known: Any) -> jax.Array:
        """The last stage's output to logits (batch, num_classes), float32 or wider; `known` goes to `last_map`."""
        check_inference(self.folded, train)
        network: Any = self
        return network.classify(self.pool(network.last_map(x, train, **known)), train)

    def last_map(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last stage's output as it is pooled."""
        return x

    def pool(self, x: jax.Array) -> jax.Array:
        """The mean of the last map over all pixels, which is classified: (batch, channels), float32 or wider."""
        return global_avg_pool(x, fused=self.folded)

    @nn.nowrap
    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes variables from a key and images, of which only shape and type matter; as Flax's `init`.

        The network is not run. Outside of `jax.jit` hardly anything is compiled; inside, each drawn array costs
        compile time. `batch_stats` is always there, empty in networks without BatchNorm.

        Args:
            rngs: a key, or keys by name.
            *args: of the call: images (batch, height, width, channels), or their `jax.ShapeDtypeStruct`.
            **kwargs: of the call, and Flax's `method`, `mutable` and `capture_intermediates`.
        """
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [leaf for leaf in leaves if _is_array(leaf)]

        def variables(rngs: Any, arrays: Sequence[Any]) -> Any:
            values = iter([jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x for x in arrays])
            args, kwargs = jax.tree.unflatten(tree, [next(values) if _is_array(leaf) else leaf for leaf in leaves])
            return {"batch_stats": {}, **super(Network, self).init(rngs, *args, **kwargs)}

        if _traced(rngs, arrays) or kwargs.get("capture_intermediates"):
            return variables(rngs, arrays)
        made = []

        def run(arrays: Sequence[jax.Array]) -> None:
            """Traced for the images alone: arrays that depend on the key are computed."""
            with jax.ensure_compile_time_eval():
                made.append(variables(rngs, arrays))

        jax.eval_shape(run, arrays)
        return made[0]


def _check_float_type(what: str, dtype: Any) -> None:
    """Raises ValueError unless `dtype` is None or a type of floating point."""
    with suppress(TypeError):
        if dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
            return
    raise ValueError(f"{what} must be a type of floating point, such as jnp.bfloat16; given {dtype!r}")


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _traced(*trees: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))

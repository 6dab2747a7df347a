"""What the networks of both families are."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from jax import lax
from jax.nn.initializers import Initializer


class Network(nn.Module):
    """A module whose `init` makes its variables and computes nothing else, and what others ask of any network.

    A family has `stage_sizes`, blocks or layers of each stage, and the methods `stem`, `stage`, `last_map`, `pool`,
    `classify` and `head`.

    Attributes:
        first_conv: name of the convolution that sees the images, among the parameters.
        torch_head: name of the classifier under PyTorch.
    """

    # Without annotations: Flax would make fields of them.
    first_conv = ""
    torch_head = ""

    @staticmethod
    def torch_module(path: tuple[str, ...]) -> str:
        """PyTorch's name of the module at `path` among the variables."""
        return ".".join(path)

    @staticmethod
    def torch_spelling(name: str) -> str:
        """Today's spelling of a name in a state dict, which old files may spell otherwise."""
        return name

    @property
    def published_size(self) -> int:
        """Pixels of a side of the images that it was published for: 32 with a stem for small images, else 224."""
        return 32 if getattr(self, "stem_kind", "imagenet") == "cifar" else 224

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
    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """As Flax's `init`: variables from a key and images, of which only shape and type matter.

        The network is not run. Called by itself, not in `jax.jit`, it compiles hardly anything; in a program each
        array that is drawn has its price. There is always a `batch_stats`, empty where no layer has any.

        Args:
            rngs: a key, or keys by name.
            *args: of the call: images (batch, height, width, channels), or their `jax.ShapeDtypeStruct`.
            **kwargs: of the call, and Flax's `method`, `mutable` and `capture_intermediates`.
        """
        leaves, tree = jax.tree.flatten((args, kwargs))
        arrays = [leaf for leaf in leaves if _is_array(leaf)]

        def variables(rngs: Any, arrays: Sequence[Any]) -> Any:
            given = iter([jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x for x in arrays])
            args, kwargs = jax.tree.unflatten(tree, [next(given) if _is_array(leaf) else leaf for leaf in leaves])
            return {"batch_stats": {}, **super(Network, self).init(rngs, *args, **kwargs)}

        if _traced(rngs, arrays) or kwargs.get("capture_intermediates"):
            return variables(rngs, arrays)
        made = []

        def run(arrays: Sequence[jax.Array]) -> None:
            """Traced for the images alone: what depends on the key has its values."""
            with jax.ensure_compile_time_eval():
                made.append(variables(rngs, arrays))

        jax.eval_shape(run, arrays)
        return made[0]


def parameter(module: nn.Module, name: str, init: Initializer, shape: Sequence[int], dtype: Any) -> Any:
    """A layer's parameter: `module.param(name, init, shape, dtype)`.

    Flax re-traces the initialiser of an existing parameter to check its shape; we know the shape.

    Raises:
        flax.errors.ScopeParamShapeError: the parameter has another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, dtype)
    value = nn.unbox(module.get_variable("params", name))
    if np.shape(value) != tuple(shape):
        assert module.scope is not None
        raise ScopeParamShapeError(name, module.scope.path_text, np.shape(value), tuple(shape))
    return value


def read(module: nn.Module, x: jax.Array, *arrays: Any) -> Sequence[Any]:
    """The variables that a layer computes with.

    During `init` they are tied to `x`, so that tracing drops the computation: `Network.init` leaves out what depends on
    the images.
    """
    lazy = module.is_initializing() and isinstance(x, jax.core.Tracer)
    return lax.optimization_barrier((x, *arrays))[1:] if lazy else arrays


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _traced(*trees: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))

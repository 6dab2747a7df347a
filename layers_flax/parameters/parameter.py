"""Parameters of a layer, as cheap to trace as they are to read."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from jax import lax
from jax.nn.initializers import Initializer


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

    During `init` they are tied to `x`, so that tracing drops the computation: `Network.init` leaves out all that
    depends on the images.
    """
    lazy = module.is_initializing() and isinstance(x, jax.core.Tracer)
    return lax.optimization_barrier((x, *arrays))[1:] if lazy else arrays

"""Reader of Orbax' folders."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple

import jax
import numpy as np

from weights_flax.formats.tensors import Tensor

Arguments = TypeVarTuple("Arguments")


def read_orbax(path: Path) -> dict[str, Any]:
    """Reads the tree of a folder that Orbax wrote, with `Tensor` leaves; reading one of them reads all values.

    Raises:
        ValueError: Orbax cannot read the folder.
    """
    import orbax.checkpoint as ocp

    try:
        with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(path.absolute()).item_metadata.tree
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from None
    values: dict[str, Any] = {}

    def read(path_in_tree: Any) -> np.ndarray:
        if not values:
            with _quiet_loops(), ocp.PyTreeCheckpointer() as reader:
                as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                restored = reader.restore(path.absolute(), restore_args=as_numpy)
            values.update({jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(restored)})
        return np.asarray(values[jax.tree_util.keystr(path_in_tree)])

    def lazy(place: Any, leaf: Any) -> Any:
        if getattr(leaf, "shape", None) is None or getattr(leaf, "dtype", None) is None:
            return None
        return Tensor(tuple(leaf.shape), np.dtype(leaf.dtype), lambda: read(place))

    return jax.tree_util.tree_map_with_path(lazy, tree)


class _QuietLoop(asyncio.SelectorEventLoop):
    """An event loop that drops callbacks once it is closed."""

    def call_soon_threadsafe(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)


@contextmanager
def _quiet_loops() -> Iterator[None]:
    """Makes Orbax use event loops that stay quiet after they are closed.

    At the first damaged array Orbax closes its loop, while TensorStore still reads other arrays; each of these would
    then print a traceback. An event loop policy would do the same, but Python 3.14 deprecates policies.
    """
    usual = asyncio.new_event_loop
    asyncio.new_event_loop = _QuietLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = usual

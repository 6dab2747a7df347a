"""A checkpoint that one process writes alone, after another one has died."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import signaling_client
from orbax.checkpoint._src.multihost import multihost

from training_flax.runtime.lost_processes import ProcessLost, watched
from training_flax.runtime.signals import Stopped


@contextmanager
def saving_alone(loop: Any) -> Iterator[None]:
    """A context in which `loop` runs; if another process dies, one of those that are left saves what is whole.

    Raises:
        ProcessLost: in place of an error that came from another process' death.
    """
    others = watched()
    if others is None:
        yield
        return

    def save() -> ProcessLost:
        with jax.transfer_guard("allow"):
            saved = loop.checkpoints.save_alone(loop.state, loop.progress) if others.is_first_left else None
        return others.error("" if saved is None else f"the state after step {saved} is saved; the same command goes on")

    others.save = save  # where this thread hangs in an operation with the process that died
    try:
        yield
    except Exception as error:
        if isinstance(error, Stopped) or not others.explains(error):
            raise
        raise save() from error


def whole_here(tree: Any) -> Any:
    """Returns the arrays of a tree that each device has whole, as NumPy's.

    Raises:
        ValueError: an array is spread over devices.
        RuntimeError: an array was given away to a step that failed.
    """

    def here(leaf: jax.Array) -> np.ndarray:
        if not leaf.is_fully_replicated:
            raise ValueError("a part of the state is on other processes' devices")
        return np.asarray(leaf.addressable_data(0))

    return jax.tree.map(here, tree)


def write_alone(folder: Path, tree: Any) -> None:
    """Writes a tree of NumPy's arrays, as `Checkpoints` does, without asking other processes; the last act of this one.

    From here on Orbax takes this process for the first one, and keeps to itself the texts by which the threads of a
    save tell each other how far they are: the store that processes share may be gone.
    """
    own = signaling_client.ThreadSafeKeyValueSignalingClient()
    signaling_client.get_signaling_client = lambda: own
    multihost.process_index = lambda: 0
    alone = ocp.options.MultiprocessingOptions(0, {0}, "alone")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as saver:
        saver.save(folder, args=ocp.args.StandardSave(tree))

"""A checkpoint that one process writes alone, after another one has died."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import signaling_client
from orbax.checkpoint._src.multihost import multihost


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

"""The whole training state on disk, by Orbax."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import linen as nn

from training_flax.archs import build_model
from training_flax.config import DTYPES
from training_flax.steps import TrainState


class Checkpoints:
    """The checkpoints of one run, written beside the training that goes on; the newest three are kept."""

    def __init__(self, run: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=3, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)

    def save(self, step: int, state: TrainState) -> None:
        """Copies the state, and writes the copy in the background."""
        self._manager.save(step, args=ocp.args.StandardSave(_as_tree(state)))

    def close(self) -> None:
        """Waits until all is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore(run: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a run and its variables, from the newest checkpoint.

    Args:
        run: the run's folder, as `train.py --out` names it.

    Returns:
        The model, and {"params", "batch_stats"}.

    Raises:
        ValueError: the folder holds no run, or no checkpoint yet.
    """
    run = Path(run)
    if not (run / "config.json").is_file():
        raise ValueError(f"{str(run)!r} is no run: it has no config.json")
    config = json.loads((run / "config.json").read_text())
    model = build_model(config["arch"], num_classes=config["num_classes"], dtype=DTYPES[config["dtype"]])
    with ocp.CheckpointManager((run / "checkpoints").absolute()) as manager:
        newest = manager.latest_step()
        if newest is None:
            raise ValueError(f"run {str(run)!r} has no checkpoint yet")
        state: Mapping[str, Any] = manager.restore(newest, args=ocp.args.StandardRestore())
    return model, {"params": state["params"], "batch_stats": state.get("batch_stats") or {}}


def _as_tree(state: TrainState) -> dict[str, Any]:
    """The state with its key as plain integers, which any version reads."""
    return {**state._asdict(), "key": jax.random.key_data(state.key)}

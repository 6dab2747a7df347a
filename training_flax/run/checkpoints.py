"""Checkpoints: the whole training state on disk, by Orbax."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from flax import linen as nn
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from common_flax.check_sums import damage, write_check_sums
from resnet_flax import unstack_blocks
from training_flax.config.config import TrainConfig, build_network
from training_flax.learn.state import TrainState
from training_flax.run.disk_space import checkpoint_size, reserve
from training_flax.run.folder import read_config
from training_flax.runtime.signals import RunError

KEPT = 3


class Progress(NamedTuple):
    """The values of a run besides its `TrainState`; JSON in the checkpoint."""

    evaluated: int = 0  # step of the last evaluation
    best_accuracy: float = -1.0  # on the test split, of the averaged weights if there are any
    best_step: int = 0
    seconds: float = 0.0  # training time over all starts, without evaluation
    epoch_sums: tuple[float, float, int] = (0.0, 0.0, 0)  # sums of loss and accuracy and steps of the current epoch


class Checkpoints:
    """The checkpoints of one run, the newest three and the best, written in the background.

    A checkpoint gets its name when it is complete. It holds check sums of its files, so that reading it detects damage
    on the disk.
    """

    def __init__(self, run: Path):
        self._run = run
        best = keeping.BestN(get_metric_fn=lambda each: each["accuracy"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keeping.AnyPreservationPolicy([keeping.LatestN(KEPT), best]),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sum_up),
        )
        self._folder = (run / "checkpoints").absolute()
        self._saving = 0  # the step of the checkpoint that is being written
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Copies the state, and writes the copy in the background unless there is a checkpoint of this step.

        Raises RunError if this or the last checkpoint could not be written.
        """
        if step in self._manager.all_steps():
            return
        tree = _as_tree(state)
        metrics = {"accuracy": progress.best_accuracy} if progress.best_step == step else None
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(progress._asdict()))

        def write() -> None:
            # Without this check Orbax prints many lines if the disk is full, and makes a removed folder again.
            if jax.process_index() == 0:
                reserve(self._run, checkpoint_size(tree))
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(step, args=args, metrics=metrics)

        self._guarded(write)

    def _sum_up(self) -> None:
        """Adds check sums to a checkpoint, just before the checkpoint gets its name."""
        if jax.process_index() == 0:
            for folder in self._folder.glob(f"{self._saving}.*"):
                write_check_sums(folder)

    def check(self) -> None:
        """Raises RunError if a checkpoint could not be written."""
        self._guarded(self._manager.check_for_errors)

    def newest(self, abstract: TrainState) -> tuple[int, TrainState, Progress, list[str]] | None:
        """Reads the newest undamaged checkpoint.

        Args:
            abstract: shapes, types and shardings for the state; the shardings may differ from the saved ones.

        Returns:
            Step, state, progress and a line for each damaged checkpoint that was skipped; None if the run has none.

        Raises:
            RunError: all checkpoints are damaged.
        """
        steps, lines = sorted(self._manager.all_steps(), reverse=True), []
        for step in steps:
            wrong = damage(self._folder / str(step))
            if wrong is not None:  # for each damaged array Orbax would print a message
                lines.append(f"checkpoint {step} is damaged and passed over: {wrong}")
                continue
            try:
                target = ocp.args.StandardRestore(_as_tree(abstract))
                args = ocp.args.Composite(state=target, progress=ocp.args.JsonRestore())
                stored = self._manager.restore(step, args=args)
                progress = Progress(**stored["progress"] | {"epoch_sums": tuple(stored["progress"]["epoch_sums"])})
            except Exception as error:  # damaged files make Orbax and TensorStore raise many kinds of errors
                lines.append(f"checkpoint {step} is damaged and passed over: {_first_line(error)}")
                continue
            for later in [s for s in steps if s > step]:
                self._manager.delete(later)
            return step, _as_state(stored["state"], abstract), progress, lines
        if steps:
            raise RunError(f"no checkpoint in {self._run} is whole; {lines[0]}")
        return None

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._guarded(self._manager.wait_until_finished)
        self._manager.close()

    def _guarded(self, write: Any) -> None:
        try:
            write()
        except Exception as error:  # OSError, and TensorStore's own errors for a full disk
            rest = "those before it are whole" if self._run.is_dir() else "the folder is gone"
            raise RunError(f"a checkpoint could not be written to {self._run}: {_first_line(error)}; {rest}") from error


def restore(run: Path | str, *, averaged: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a run's network and its variables from the newest checkpoint.

    Args:
        run: the run's folder, as in `train.py --out`.
        averaged: return the averaged weights (`ema`) in place of the last step's.

    Returns:
        The model, and {"params", "batch_stats"}.

    Raises:
        ValueError: the folder holds no run, no checkpoint yet, or no averaged weights, or the newest is damaged.
    """
    run = Path(run)
    config = read_config(run)
    named = TrainConfig(config["arch"], dtype=config["dtype"], **config["model"])
    model = build_network(named, config["num_classes"])
    with ocp.CheckpointManager((run / "checkpoints").absolute()) as manager:
        newest = manager.latest_step()
        if newest is None:
            raise ValueError(f"run {str(run)!r} has no checkpoint yet")
        wrong = damage(run / "checkpoints" / str(newest))
        if wrong is not None:
            raise ValueError(f"checkpoint {newest} of {str(run)!r} is damaged: {wrong}")
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state: Mapping[str, Any] = manager.restore(newest, args=args)["state"]
    if averaged and "ema" not in state:
        raise ValueError(f"run {str(run)!r} has no averaged weights; it was trained with ema 0")
    variables = state["ema"] if averaged else state
    return model, unstack_blocks({"params": variables["params"], "batch_stats": variables.get("batch_stats") or {}})


def _as_tree(state: TrainState) -> dict[str, Any]:
    """Returns the state without its empty fields, and with its key as integers, which all versions of JAX read."""
    values = {name: value for name, value in state._asdict().items() if jax.tree.leaves(value)}
    key = values["key"]
    if isinstance(key, jax.ShapeDtypeStruct):
        plain = jax.eval_shape(jax.random.key_data, key)
        return {**values, "key": jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=key.sharding)}
    return {**values, "key": jax.random.key_data(key)}


def _as_state(tree: Mapping[str, Any], abstract: TrainState) -> TrainState:
    """Inverts `_as_tree`."""
    values = {name: tree.get(name, getattr(abstract, name)) for name in abstract._fields}
    key = jax.jit(jax.random.wrap_key_data, out_shardings=abstract.key.sharding)(values["key"])
    return TrainState(**values | {"key": key})


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

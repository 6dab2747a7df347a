"""Checkpoints: the whole training state on disk, by Orbax."""

import errno
import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from common_flax.check_sums import damage, write_check_sums
from common_flax.files import UNFINISHED, make_folder, remove, sync, sync_tree
from layers_flax import Network
from training_flax.config.config import build_network
from training_flax.config.run_config import read_run_config
from training_flax.files.disk_space import checkpoint_size, reserve
from training_flax.learn.state import TrainState
from training_flax.run.folder import checkpoint_steps
from training_flax.run.metrics import METRICS
from training_flax.runtime.alone import whole_here, write_alone
from training_flax.runtime.locks import let_checkpoints_be_written
from training_flax.runtime.random_numbers import current
from training_flax.runtime.signals import RunError
from weights_flax import load_weights
from weights_flax.formats.run import Checkpoint, read_progress

ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"  # in names of unfinished checkpoints of older versions
KEPT = 3  # newest checkpoints; the best one is kept too


class Progress(NamedTuple):
    """The values of a run besides its `TrainState`; JSON in the checkpoint."""

    evaluated: int = 0  # step of the last evaluation
    best_accuracy: float = -1.0  # or other score, on the part that is looked at; of averaged weights if there are any
    best_step: int = 0
    seconds: float = 0.0  # training time over all starts, without evaluation
    lines: int = 0  # of metrics.jsonl
    epoch_sums: tuple[float, float, int] = (0.0, 0.0, 0)  # sums of loss and accuracy and steps of the current epoch
    stopped_by: str = ""  # the callback that ended the run before its last step


class Checkpoints:
    """The checkpoints of one run, the newest three and the best, written in the background.

    A checkpoint is written to STEP.unfinished, and is renamed to STEP when all its files and folders are on the disk;
    only then does an older one go. It holds the run's mark, and check sums of its files.

    Args:
        run: the run's folder.
        mark: the run's mark, see `mark_of`.
        lengths: the numbers of steps that the run was planned for, see `lengths_of`; the last one holds now.

    Attributes:
        steps: the steps of all checkpoints, whole or being written.
    """

    def __init__(self, run: Path, mark: str, lengths: Sequence[int]):
        self._run, self._mark, self._lengths = run, mark, lengths
        self._folder, self._metrics = (run / "checkpoints").absolute(), run / METRICS
        self._primary = jax.process_index() == 0
        if self._primary:
            make_folder(self._folder)
            for path in self._folder.iterdir():
                if path.name.endswith(UNFINISHED) or ORBAX_UNFINISHED in path.name:  # left by a killed process
                    with suppress(OSError):
                        remove(path)
        let_checkpoints_be_written(run)
        self._saver = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self.steps = checkpoint_steps(run)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._started = self._ended = 0.0  # of the last checkpoint, by the monotonic clock

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Copies the state, and writes the copy in the background unless there is a checkpoint of this step.

        Raises RunError if this or the last checkpoint could not be written.
        """
        if step in self.steps:
            return
        self.wait()
        tree, unfinished = _as_tree(state), self._folder / f"{step}{UNFINISHED}"
        self._started, self._ended = time.monotonic(), inf

        def finish() -> None:
            try:
                self._saver.wait_until_finished()
                if self._primary:
                    self._publish(unfinished, step, progress)
            except Exception as error:  # OSError, and TensorStore's own errors for a full disk
                self._error = error
            self._ended = time.monotonic()

        try:
            if self._primary:
                # Without this check Orbax prints many lines if the disk is full, and makes a removed folder again.
                reserve(self._run, checkpoint_size(tree))
                self._begin(unfinished, step, progress)
            self._saver.save(unfinished / "state", args=ocp.args.StandardSave(tree))
        except Exception as error:
            raise self._failure(error) from error
        self.steps.append(step)
        # Not a daemon: when Python ends, it waits until the checkpoint is whole.
        self._thread = threading.Thread(target=finish, name="checkpoint")
        self._thread.start()

    def save_alone(self, state: TrainState, progress: Progress) -> int | None:
        """Writes a checkpoint without the other processes, one of which has died.

        Returns:
            Its step; None if it could not be written: this process lacks a part of the state, or the disk has an error.
        """
        try:
            tree = whole_here(_as_tree(state))
            step = int(tree["step"])
            if step in checkpoint_steps(self._run):
                return step
            unfinished = self._folder / f"{step}.alone{UNFINISHED}"
            lines = (self._run / METRICS).read_bytes().count(b"\n")  # those of the first process
            self._begin(unfinished, step, progress._replace(lines=lines))
            write_alone(unfinished / "state", tree)
            self._publish(unfinished, step, progress)
        except Exception:  # errors of a checkpoint; or the state was given away to a step that failed
            return None
        return step

    def _begin(self, unfinished: Path, step: int, progress: Progress) -> None:
        """Makes the folder of a checkpoint that is to be written, with its progress."""
        if unfinished.exists():  # the writing of it was interrupted
            remove(unfinished)
        (unfinished / "progress").mkdir(parents=True)
        origin = {"step": step, "mark": self._mark, "length": self._lengths[-1]}
        stored = json.dumps(progress._asdict() | origin, allow_nan=False)
        (unfinished / "progress" / "metadata").write_text(stored)

    def _publish(self, unfinished: Path, step: int, progress: Progress) -> None:
        """Gives a written checkpoint its name, and removes those that are no longer kept."""
        if not (unfinished / "progress").exists():
            for made in (unfinished / "state", unfinished, self._folder, self._run):
                with suppress(OSError):  # Orbax has made the folders anew
                    remove(made) if made.name == "state" else made.rmdir()
            raise FileNotFoundError(errno.ENOENT, "it was moved or removed meanwhile", str(self._run))
        if self._metrics.exists():
            sync(self._metrics)  # a run that goes on from here needs the lines of metrics up to here
        write_check_sums(unfinished)
        sync_tree(unfinished)
        unfinished.rename(self._folder / str(step))
        sync(self._folder)
        for old in set(self.steps[:-KEPT]) - {progress.best_step}:
            self._remove(old)

    def _remove(self, step: int) -> None:
        """Removes a checkpoint, which loses its name first: a half-removed one must not look like a damaged one."""
        gone = self._folder / f"{step}{UNFINISHED}"
        with suppress(OSError):  # the next start removes the rest
            (self._folder / str(step)).rename(gone)
            self.steps.remove(step)
            remove(gone)

    @property
    def seconds(self) -> float:
        """The seconds that the last checkpoint has taken so far, most of them in the background."""
        return min(self._ended, time.monotonic()) - self._started

    def check(self) -> None:
        """Raises RunError if a checkpoint could not be written."""
        if self._error is not None:
            raise self._failure(self._error) from self._error

    def newest(self, abstract: TrainState) -> tuple[int, TrainState, Progress, list[str]] | None:
        """Reads the newest undamaged checkpoint, and removes damaged newer ones.

        Args:
            abstract: shapes, types and shardings for the state; the shardings may differ from the saved ones.

        Returns:
            Step, state, progress and a line for each damaged checkpoint that was skipped; None if the run has none.

        Raises:
            RunError: all checkpoints are damaged, or one belongs to another run.
        """
        lines: list[str] = []
        for step in reversed(self.steps):
            try:  # for each damaged array Orbax would print a message
                mark, length, progress = self._read_progress(step)
            except ValueError as error:
                lines.append(f"checkpoint {step} is damaged and passed over: {error}")
                continue
            if mark not in (None, self._mark) or length not in (None, *self._lengths):
                raise RunError(f"checkpoint {step} in {self._run} belongs to another run; move it away")
            try:
                target = ocp.args.StandardRestore(_as_tree(abstract))
                stored = self._saver.restore(self._folder / str(step) / "state", args=target)
            except Exception as error:  # damaged files make Orbax and TensorStore raise many kinds of errors
                lines.append(f"checkpoint {step} is damaged and passed over: {_first_line(error)}")
                continue
            for later in [s for s in self.steps if s > step] if self._primary else []:
                self._remove(later)
            self.steps = [s for s in self.steps if s <= step]
            return step, _as_state(stored, abstract), progress, lines
        if lines:
            raise RunError(f"no checkpoint in {self._run} is whole; {lines[0]}")
        return None

    def _read_progress(self, step: int) -> tuple[str | None, int | None, Progress]:
        """Returns mark and length of the run (None in checkpoints of older versions), and the progress."""
        stored = read_progress(Checkpoint(step, self._folder / str(step)))
        mark, length, _ = (stored.pop(name, None) for name in ("mark", "length", "step"))
        try:
            progress = Progress(**stored | {"epoch_sums": tuple(stored["epoch_sums"])})
        except (TypeError, KeyError):
            raise ValueError("its file progress/metadata is not what was written") from None
        # A run that is extended goes on, whatever callback had stopped it.
        return mark, length, progress if length == self._lengths[-1] else progress._replace(stopped_by="")

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk; raises RunError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Waits as `wait`, and frees Orbax' threads."""
        try:
            self.wait()
        finally:
            self._saver.close()

    def _failure(self, error: Exception) -> RunError:
        """Makes the error of a checkpoint that could not be written; it tells which ones are left."""
        whole = [step for step in checkpoint_steps(self._run) if damage(self._folder / str(step)) is None]
        left = f"those before it are whole: {', '.join(map(str, whole))}" if whole else "no checkpoint is left"
        rest = left if self._run.is_dir() else "the folder is gone"
        return RunError(f"a checkpoint could not be written to {self._run}: {_first_line(error)}; {rest}")


def restore(
    run: Path | str, *, which: str | None = None, averaged: bool | None = None
) -> tuple[Network, dict[str, Any]]:
    """Reads a run's network and its variables, from its files or its newest checkpoint.

    Args:
        run: the run's folder, as in `train.py --out`.
        which: "best", "averaged" or "last" weights; None takes the first of these that the run has, as `load_model`.
        averaged: True stands for which="averaged", False for which="last".

    Returns:
        The model, and {"params", "batch_stats"}.

    Raises:
        ValueError: the folder holds no run, no weights yet, or no averaged ones, or they are damaged.
    """
    if which is not None and averaged is not None:
        raise ValueError(f"give which or averaged, not both; given which={which!r}, averaged={averaged}")
    if averaged is not None:
        which = "averaged" if averaged else "last"
    config = read_run_config(Path(run))
    model = build_network(config.options, config.num_classes)
    return model, jax.tree.map(jnp.asarray, load_weights(model, run, which=which))


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
    as_key = partial(jax.random.wrap_key_data, impl=current().impl)
    key = jax.jit(as_key, out_shardings=abstract.key.sharding)(values["key"])
    return TrainState(**values | {"key": key})


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

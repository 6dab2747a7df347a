"""What a run writes of its course: metrics.jsonl, curves.png, and what else was asked for."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from common_flax.errors import one_line
from common_flax.optional import library
from training_flax.plots.curves import draw_curves
from training_flax.run.folder import append_metrics, read_metrics
from training_flax.run.plan import Job
from training_flax.runtime.signals import RunError

PROFILED = range(5, 10)  # steps since this start: the first ones are not like the others
SECONDS_BETWEEN_CURVES = 10.0
SHARE_OF_CURVES = 0.01  # of a run's time at most; the longer a run, the longer they take to draw


class Logs:
    """Writes of the first process; those of the others are silent.

    Raises:
        ValueError: a library that was asked for is not installed.
        RunError: it cannot start.
    """

    def __init__(self, job: Job):
        self._job, self._draw_at = job, 0.0
        self._here = jax.process_index() == 0
        self._board: Any = None
        self._wandb: Any = None
        self._tracing = False
        if job.config.tensorboard:
            writer = library("tensorboardX", extra="tensorboard", purpose="tensorboard")
            self._board = writer.SummaryWriter(str(job.run / "tensorboard")) if self._here else None
        if job.config.wandb:
            wandb = library("wandb", extra="wandb", purpose="wandb")
            try:
                self._wandb = (
                    wandb.init(project=job.config.wandb, name=job.run.name, dir=job.run) if self._here else None
                )
            except Exception as error:  # no account, no network: errors of its own kinds
                raise RunError(f"wandb cannot start: {one_line(error)}") from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Takes a line of metrics, with "split" and "step"."""
        if not self._here:
            return
        try:
            append_metrics(self._job.run, line)
        except OSError as error:
            raise RunError(f"metrics could not be written to {self._job.run}: {error}") from error
        numbers = {k: v for k, v in line.items() if k not in ("split", "step") and v is not None}
        named = {f"{line['split']}/{name}": value for name, value in numbers.items()}
        if self._board:
            for name, value in named.items():
                self._board.add_scalar(name, value, line["step"])
        if self._wandb:
            self._wandb.log(named, step=line["step"])

    def draw(self, final: bool = False) -> None:
        """Keeps curves.png current for a hundredth of the time, at most every ten seconds; and draws the final one."""
        start = time.monotonic()
        if self._here and (final or start >= self._draw_at):
            title = f"{self._job.config.arch} on {self._job.config.data}"
            draw_curves(self._job.run / "curves.png", read_metrics(self._job.run), title)
            end = time.monotonic()
            self._draw_at = end + max(SECONDS_BETWEEN_CURVES, (end - start) / SHARE_OF_CURVES)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around step `number` since this start: the trace of a few steps, where one was asked for."""
        profiled = self._job.config.profile and number in PROFILED
        if profiled and number == PROFILED.start:
            jax.profiler.start_trace(self._job.run / "profile")
            self._tracing = True
        yield
        if number == PROFILED.stop - 1:
            self._stop_trace()

    def _stop_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

    def close(self) -> None:
        """Writes what is still held back."""
        self._stop_trace()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()

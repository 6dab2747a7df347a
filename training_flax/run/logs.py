"""Logs of a run: metrics.jsonl, curves.png, and optional ones for TensorBoard, wandb and the profiler."""

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

PROFILED = range(5, 10)  # steps since this start, without the first ones, which are not typical
SECONDS_BETWEEN_CURVES = 10.0
SHARE_OF_CURVES = 0.01  # largest share of a run's time; the longer a run, the longer its curves take to draw


class Logs:
    """Writes the logs in the first process, and nothing in the others.

    Raises:
        ValueError: a library for an option is not installed.
        RunError: wandb cannot start.
    """

    def __init__(self, job: Job):
        self._job, self._draw_at = job, 0.0
        self._here = jax.process_index() == 0
        self._board: Any = None
        self._wandb: Any = None
        self._tracing = False
        if job.config.tensorboard and self._here:
            writer = library("tensorboardX", extra="tensorboard", purpose="tensorboard")
            self._board = writer.SummaryWriter(str(job.run / "tensorboard"))
        if job.config.wandb and self._here:
            wandb = library("wandb", extra="wandb", purpose="wandb")
            try:
                self._wandb = wandb.init(project=job.config.wandb, name=job.run.name, dir=job.run)
            except Exception as error:  # wandb's own errors, such as for no account or no network
                raise RunError(f"wandb cannot start: {one_line(error)}") from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes a line of metrics, with "split" and "step"."""
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
        """Draws curves.png, at most every ten seconds and for a hundredth of the time, or if it is the final one."""
        start = time.monotonic()
        if self._here and (final or start >= self._draw_at):
            title = f"{self._job.config.arch} on {self._job.config.data}"
            draw_curves(self._job.run / "curves.png", read_metrics(self._job.run), title)
            end = time.monotonic()
            self._draw_at = end + max(SECONDS_BETWEEN_CURVES, (end - start) / SHARE_OF_CURVES)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A context around step `number` since this start; traces the steps of PROFILED if the config asks for it."""
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
        """Writes pending data and closes all logs."""
        self._stop_trace()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()

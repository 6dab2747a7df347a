"""Logs of a run: metrics.jsonl, curves.png, and optional ones for TensorBoard, wandb and the profiler."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from common_flax.errors import one_line
from common_flax.optional import library
from training_flax.data.loader import Loader
from training_flax.learn.state import TrainMetrics
from training_flax.plots.board import Board
from training_flax.plots.curves import draw_curves
from training_flax.run.checkpoints import Progress
from training_flax.run.job import Job
from training_flax.run.metrics import Metrics, read_metrics
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
        self.metrics = Metrics(job.run, job.mark)
        self._here = jax.process_index() == 0
        self._board: Board | None = None
        self._wandb: Any = None
        self._tracing = False
        if job.config.tensorboard and self._here:
            self._board = Board(job.run / "tensorboard")
        if job.config.wandb and self._here:
            wandb = library("wandb", extra="wandb", purpose="wandb")
            try:
                self._wandb = wandb.init(project=job.config.wandb, name=job.run.name, dir=job.run)
            except Exception as error:  # wandb's own errors, such as for no account or no network
                raise RunError(f"wandb cannot start: {one_line(error)}") from error

    def begin(self) -> None:
        """Shows the entries of a run so far, and its first batch; call it once, when metrics.jsonl is rewound."""
        if self._board:
            self._board.begin(read_metrics(self._job.run))
            self._board.picture("train", self._job.run / "batch.png", 0)

    def show_results(self, names: Iterable[str]) -> None:
        """Shows pictures of a finished run, by their names in its folder."""
        for name in names:
            if self._board:
                self._board.picture("test", self._job.run / name, self._job.total_steps)

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes a line of metrics, with "split" and "step"."""
        if not self._here:
            return
        try:
            self.metrics.append(line)
        except OSError as error:
            raise RunError(f"metrics could not be written to {self._job.run}: {error}") from error
        if self._board:
            self._board.add(line)
        if self._wandb:
            numbers = {k: v for k, v in line.items() if k not in ("split", "step") and v is not None}
            named = {f"{line['split']}/{name}": value for name, value in numbers.items()}
            self._wandb.log(named, step=line["step"])

    def draw(self, final: bool = False) -> None:
        """Draws curves.png, at most every ten seconds and in a hundredth of the time; always if `final` is True."""
        start = time.monotonic()
        if self._here and (final or start >= self._draw_at):
            title = f"{self._job.config.arch} on {self._job.config.data}"
            binary = {"loss": "binary cross-entropy (nats)"} if self._job.dataset.multi_label else {}
            label = {"loss": "loss"} if self._job.own.loss else binary  # in place of cross-entropy
            draw_curves(self._job.run / "curves.png", read_metrics(self._job.run), title, **label)
            end = time.monotonic()
            self._draw_at = end + max(SECONDS_BETWEEN_CURVES, (end - start) / SHARE_OF_CURVES)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A context around step `number` since this start; traces the steps of PROFILED if the config asks for it."""
        if self._job.config.profile and number == PROFILED.start:
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


def train_means(progress: Progress, steps: int) -> str:
    """Says the means of loss and accuracy over an epoch of `steps` steps, without those that were skipped.

    Two spaces follow, for the next words of the line.
    """
    loss, accuracy, count = progress.epoch_sums
    if not count:
        return f"train: no step counted, all {steps} were skipped  "
    skipped = f" ({steps - count} of {steps} steps were skipped)" if count < steps else ""
    return f"train loss {loss / count:.4f}, accuracy {100 * accuracy / count:.2f} %{skipped}  "


def told_means(means: Mapping[str, float]) -> str:
    """Says the means of an evaluation: the loss, and shares in percent."""
    shares = [f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in means.items() if name != "loss"]
    return ", ".join([f"loss {means['loss']:.4f}", *shares])


def epoch_means(progress: Progress) -> dict[str, float]:
    """Returns the means of loss and accuracy over the steps of an epoch that counted; empty if none did."""
    loss, accuracy, count = progress.epoch_sums
    return {"train_loss": loss / count, "train_accuracy": accuracy / count} if count else {}


class StepLog:
    """Shows the steps of one epoch on the progress bar, and logs them ten times per epoch."""

    def __init__(
        self, job: Job, logs: Logs, learning_rates: np.ndarray | None, epoch: int, start: int, loader: Loader, bar: tqdm
    ):
        self._job, self._logs, self._learning_rates, self._loader, self._bar = job, logs, learning_rates, loader, bar
        self._first, self._end = job.last_step(epoch - 1), job.last_step(epoch)
        self._every = max(1, round(job.dataset.train.examples / job.batch_size / 10))
        self._step = start
        self._bar.update((start - self._first) * job.batch_size)
        self._begin_line()

    def _begin_line(self) -> None:
        self._recent: list[tuple[float, float, float]] = []
        self._steps, self._skipped = 0, 0
        self._since, self._waited = time.perf_counter(), self._loader.waited

    @property
    def of_step(self) -> dict[str, float]:
        """The numbers of the last step, for callbacks."""
        loss, accuracy, norm, _ = map(float, self._metrics)
        numbers = {"loss": loss, "accuracy": accuracy, "gradient_norm": norm}
        rates = self._learning_rates
        return numbers if rates is None else numbers | {"learning_rate": float(rates[self._step - 1])}

    def add(self, metrics: TrainMetrics, progress: Progress) -> Progress:
        """Adds the metrics of the next step to the log, and to the sums of the epoch in `progress`."""
        self._step += 1
        self._steps += 1
        self._metrics = metrics
        if metrics.skipped_in_row:
            self._skipped += 1
        else:
            loss, accuracy, count = progress.epoch_sums
            values = float(metrics.loss), float(metrics.accuracy), float(metrics.gradient_norm)
            self._recent.append(values)
            progress = progress._replace(epoch_sums=(loss + values[0], accuracy + values[1], count + 1))
        seconds = time.perf_counter() - self._since
        wait = (self._loader.waited - self._waited) / seconds
        means: list[Any] = np.mean(self._recent, 0).tolist() if self._recent else [None] * 3
        note = f"loss {means[0]:.3f}, accuracy {100 * means[1]:.1f} %" if self._recent else "no gradient is finite"
        note += f", waiting for data {100 * wait:.0f} %" if wait > 0.01 else ""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(self._job.batch_size)
        if (self._step - self._first) % self._every == 0 or self._step == self._end:
            line: dict[str, Any] = {"split": "train", "step": self._step, "epoch": self._job.epoch_of(self._step)}
            line |= dict(zip(("loss", "accuracy", "gradient_norm"), means, strict=True))
            # An optimizer of the user's has a learning rate of its own, which nothing tells.
            rate = None if self._learning_rates is None else float(self._learning_rates[self._step - 1])
            line |= {"learning_rate": rate, "skipped": self._skipped}
            speed = self._steps * self._job.batch_size / seconds
            self._logs.write(line | {"images_per_second": speed, "data_wait": wait})
            self._begin_line()
        return progress

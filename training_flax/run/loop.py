"""The training loop: epochs of steps, each with an evaluation and a checkpoint; a run can stop between two steps."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from training_flax.data.dataset import StreamedSplit
from training_flax.data.loader import Batch, Loader, Reader, UnreadableImage, central_fit, random_fit
from training_flax.given.callbacks import Callbacks
from training_flax.learn.evaluation import Evaluation, on_device
from training_flax.learn.optimizers import learning_rate
from training_flax.learn.state import TrainMetrics, TrainState
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.run.diagnosis import first_not_finite
from training_flax.run.evaluations import Evaluations
from training_flax.run.job import Job
from training_flax.run.logs import Logs, StepLog, epoch_means, told_means, train_means
from training_flax.run.programs import Programs
from training_flax.runtime.lost_processes import ProcessLost, check_processes
from training_flax.runtime.memory import trim_memory
from training_flax.runtime.signals import DUE, GO_ON, SAVE, STOP, RunError, StopAsked, Stopped, StopRequest
from training_flax.runtime.terminal import Terminal, progress_bar
from training_flax.runtime.users_code import is_users

# Epochs of a second do not each end with a checkpoint: it comes for a fiftieth of the time, or every ten seconds.
SHARE_OF_CHECKPOINTS = 0.02
SHORT_EPOCH = 10.0  # seconds
COUNTED = (UnreadableImage, StopAsked, ProcessLost)  # errors after which the step before is read


class LoopResult(NamedTuple):
    """The results of a finished loop."""

    state: TrainState
    evaluation: Evaluation  # on the test part: of the best weights, if there are any, else of the averaged or last ones
    best: Any  # the variables after the step with the best validation score; None without a validation part
    progress: Progress
    images_per_second: float  # of training alone, since this start


@dataclass
class Loop:
    """Trains the run of `job` from `state` on. Implicit transfers to and from devices raise errors."""

    job: Job
    programs: Programs
    state: TrainState
    progress: Progress
    checkpoints: Checkpoints
    logs: Logs
    terminal: Terminal
    stop: StopRequest

    def __post_init__(self) -> None:
        job = self.job
        self.step = int(jax.device_get(self.state.step))
        self.train_split = on_device(job.dataset.train, job.devices)
        self.train_reader = train_reader(job)
        self.evaluations = Evaluations(job, self.programs, self.logs, self.check_stop)
        self.learning_rates: np.ndarray | None = None
        if job.own.optimizer is None:
            schedule = learning_rate(job.config, job.total_steps)
            self.learning_rates = np.asarray(jax.vmap(schedule)(np.arange(job.total_steps)))
        self.callbacks = Callbacks(job.own.callbacks, self.progress.stopped_by)
        self.means: dict[str, float] = {}  # of the last epoch and its evaluation, for callbacks
        self.saved_at = time.monotonic()
        self.seconds, self.steps_taken = 0.0, 0

    def run(self) -> LoopResult:
        """Trains to the end, or until the config's patience runs out.

        Raises:
            Stopped: a signal stopped the run; the state is saved.
            ProcessLost: another process has died, see `saving_alone`.
            RunError: the run cannot go on; its checkpoints stay.
        """
        job = self.job
        skipped = int(jax.device_get(self.state.skipped_in_row))
        if self.step == job.total_steps and skipped >= job.config.max_skipped:
            raise RunError(
                f"the last {skipped} steps were skipped, for numbers that are not finite; "
                f"the weights before them are in checkpoint {self.step} of {job.run}"
            )
        evaluated = self.progress.evaluated
        first = next((e for e in range(1, job.epochs + 1) if job.last_step(e) > evaluated), job.epochs)
        if self.ended or (self.step == evaluated and job.ends_early(evaluated, self.progress.best_step)):
            first = job.epoch_at(self.step)  # a run that is over repeats its last evaluation
        self.stop.armed = True  # and stays so: later signals wait for the run's last file
        try:
            with jax.transfer_guard("disallow"):
                for epoch in range(first, job.epochs + 1):
                    steps = range(self.step, self.step if self.ended else job.last_step(epoch))
                    due = self.take_steps(epoch, steps)
                    evaluation = self.evaluate(epoch)
                    early = epoch < job.epochs and job.ends_early(self.step, self.progress.best_step)
                    if due or early or self.ended or epoch == job.epochs or self.is_best:
                        self.save()
                    if self.ended:
                        stopped = f"stopped by {self.callbacks.stopped_by} after step {self.step} of {job.total_steps}"
                        self.terminal.say(stopped)
                        break
                    if early:
                        self.terminal.say(
                            f"no better validation {job.best_by} in {job.config.patience} epochs: the end"
                        )
                        break
                best = None
                if job.dataset.validation is not None:
                    self.checkpoints.wait()
                    best, evaluation = self.evaluations.of_best(self.step, self.progress.best_step)
        except UnreadableImage as error:
            if jax.process_count() > 1:  # all processes must save together, and the others had no error
                raise
            self.save(wait=True)
            raise RunError(f"{error}; the state after step {self.step} is saved in {job.run}") from error
        except StopAsked as asked:
            self.act(asked.stop_signal)
        except Exception as error:
            if is_users(error) and jax.process_count() == 1:
                with suppress(RunError):  # the user's error is the one to report
                    self.write_checkpoint(wait=True)
            raise
        finally:
            self.evaluations.close()
            if self.train_reader:
                self.train_reader.close()
        return LoopResult(self.state, evaluation, best, self.progress, self.images_per_second)

    @property
    def is_best(self) -> bool:
        """True after an evaluation on the validation part with the best score; its checkpoint is kept."""
        return self.job.dataset.validation is not None and self.progress.best_step == self.step

    @property
    def ended(self) -> bool:
        """True if a callback has asked to stop, before the last step."""
        return bool(self.callbacks.stopped_by)

    @property
    def images_per_second(self) -> float:
        """The speed of training alone, since this start."""
        return self.steps_taken * self.job.batch_size / max(self.seconds, 1e-9)

    def take_steps(self, epoch: int, steps: range) -> bool:
        """Takes the remaining steps of an epoch; returns True if a checkpoint is due at its end."""
        job, seed = self.job, self.job.config.seed
        start, before = time.perf_counter(), self.progress.seconds
        pending: tuple[TrainMetrics, jax.Array] | None = None
        loader = Loader(job.dataset.train, steps, job.batch_size, seed, job.devices, self.train_reader)
        loader.stop_signal, loader.check, loader.change_until = self.stop_signal, self.check_stop, job.change_until
        loader.sampling = job.config.sampling
        loader.idle = lambda: pending is None or pending[1].is_ready()  # type: ignore[attr-defined]
        images = (job.last_step(epoch) - job.last_step(epoch - 1)) * job.batch_size
        with progress_bar(f"epoch {epoch}/{job.epochs}", images, shown=not self.terminal.quiet) as bar:
            log = StepLog(job, self.logs, self.learning_rates, epoch, steps.start, loader, bar)
            stop_signal = GO_ON
            try:
                for batch in loader:
                    with self.logs.step(self.steps_taken):
                        self.state, output = self.programs.train_step(self.state, self.train_split, batch)
                    self.step += 1
                    self.steps_taken += 1
                    if self.steps_taken & (self.steps_taken - 1) == 0:  # 1, 2, 4, 8, …
                        trim_memory()
                    # Metrics are read one step late, so that the device does not wait for the host.
                    if pending is not None:
                        stop_signal = self.read(log, pending, batch)
                    pending = output
                    if self.callbacks.on["on_step"]:  # which see the state of their step
                        stop_signal, pending = self.read(log, output, batch), None
                        self.call("on_step", log.of_step)
                    self.progress = self.progress._replace(seconds=before + time.perf_counter() - start)
                    # The last step of an epoch needs no SAVE: a checkpoint follows the evaluation.
                    if stop_signal >= STOP or (stop_signal == SAVE and self.step < steps.stop):
                        if pending is not None:
                            self.read(log, pending, batch)
                        pending = None
                        self.act(stop_signal)
                        stop_signal = GO_ON
                    if self.ended:
                        break
            except Exception as error:
                if pending is not None and (is_users(error) or isinstance(error, COUNTED)):  # the steps before count
                    self.read(log, pending, batch)
                raise
            if pending is not None:
                stop_signal = self.read(log, pending, batch)
        self.seconds += time.perf_counter() - start
        self.progress = self.progress._replace(seconds=before + time.perf_counter() - start)
        if stop_signal >= STOP:
            self.act(stop_signal)
        return stop_signal >= DUE

    def stop_signal(self) -> int:
        """Returns this process's request to all processes at the next step; raises ProcessLost if one has died."""
        check_processes()
        if self.stop.stop_signal != GO_ON:
            return self.stop.stop_signal
        passed = time.monotonic() - self.saved_at
        if passed > 60 * self.job.config.checkpoint_minutes:
            return SAVE
        return DUE if passed >= min(SHORT_EPOCH, self.checkpoints.seconds / SHARE_OF_CHECKPOINTS) else GO_ON

    def check_stop(self) -> None:
        """Raises StopAsked if this process has been asked to stop, and need not do so together with others."""
        asked = self.stop.stop_signal
        if asked >= STOP and jax.process_count() == 1:
            raise StopAsked(asked)

    def read(self, log: StepLog, output: tuple[TrainMetrics, jax.Array], batch: Batch) -> int:
        """Copies a step's metrics to the host; returns the stop signal of all processes."""
        metrics, stop_signal = jax.device_get(output)
        self.progress = log.add(metrics, self.progress)
        self.checkpoints.check()
        if metrics.skipped_in_row >= self.job.config.max_skipped:
            self.save(wait=True)
            with jax.transfer_guard("allow"):  # the training has ended
                source = first_not_finite(self.job, self.state, self.train_split, batch)
            raise RunError(
                f"{metrics.skipped_in_row} steps in a row were skipped, for numbers that are not finite; {source}; "
                f"the weights before them are in checkpoint {self.step} of {self.job.run}"
            )
        return int(stop_signal)

    def act(self, stop_signal: int) -> None:
        """Saves or stops, after a step that all processes have taken."""
        self.save(wait=stop_signal >= STOP)
        if stop_signal >= STOP:
            raise Stopped(stop_signal - STOP, self.job.run, self.step)

    def call(self, event: str, metrics: Mapping[str, float], checkpoint: Path | None = None) -> None:
        """Calls the callbacks of an event."""
        if not self.callbacks.on[event]:
            return
        job = self.job
        about = dict(
            step=self.step, epoch=job.epoch_at(self.step), total_steps=job.total_steps, epochs=job.epochs, run=job.run
        )
        self.callbacks.call(
            event, self.state, metrics, checkpoint=checkpoint, model=job.eval_model, _devices=job.devices, **about
        )
        self.progress = self.progress._replace(stopped_by=self.callbacks.stopped_by)

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint of the current state, in the background unless `wait` is True or a callback waits."""
        new = self.step not in self.checkpoints.steps
        self.write_checkpoint(wait)
        if new and self.callbacks.on["on_checkpoint"]:
            self.checkpoints.wait()
            self.call("on_checkpoint", self.means, self.job.run / "checkpoints" / str(self.step))

    def write_checkpoint(self, wait: bool = False) -> None:
        """Writes a checkpoint as `save`, and calls nothing."""
        self.progress = self.progress._replace(lines=self.logs.metrics.lines)
        self.checkpoints.save(self.step, self.state, self.progress)
        if wait:
            self.checkpoints.close()
        self.saved_at = time.monotonic()

    def evaluate(self, epoch: int) -> Evaluation:
        """Evaluates the network and its averaged weights; logs, prints and draws the results."""
        job, part = self.job, self.evaluations.part
        evaluation = self.evaluations.of_state(self.state, self.step)
        # A run that only repeats its last evaluation has the sums of no epoch.
        repeated = self.progress.evaluated == self.step
        train = "" if repeated else train_means(self.progress, self.step - job.last_step(epoch - 1))
        seen = {f"{part}_{name}": value for name, value in evaluation.means.items()}
        self.means = epoch_means(self.progress) | seen
        self.progress = self.progress._replace(evaluated=self.step, epoch_sums=(0.0, 0.0, 0))
        if evaluation.score > self.progress.best_accuracy:
            self.progress = self.progress._replace(best_accuracy=evaluation.score, best_step=self.step)
        self.terminal.say(
            f"epoch {epoch}/{job.epochs}  {train}"
            f"{part} {told_means(evaluation.means)}  "
            f"{self.images_per_second:.0f} images/s"
        )
        self.logs.draw()
        self.call("on_epoch", self.means)
        return evaluation


def train_reader(job: Job) -> Reader | None:
    """Makes the reader of a streamed train split: random crops if the config has them, else the middle of images."""
    split, config = job.dataset.train, job.config
    if not isinstance(split, StreamedSplit):
        return None
    size, area = split.image_shape[0], job.min_area
    seen = dict(interpolation=config.interpolation, rule=config.test_crop_rule)
    if area is None:
        return Reader(split, central_fit(size, 1.0, **seen), config.workers)
    return Reader(split, random_fit(size, config.seed, area, config.test_crop, **seen), config.workers)

"""The training loop: epochs of steps, each with an evaluation and a checkpoint; a run can stop between two steps."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from training_flax.data.dataset import Split
from training_flax.data.loader import Batch, Loader, Reader, UnreadableImage, central_fit, random_fit
from training_flax.learn.evaluation import Evaluation, evaluate_part, on_device, test_reader, whole_batch
from training_flax.learn.optimizers import learning_rate
from training_flax.learn.state import TrainMetrics, TrainState
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.run.diagnosis import first_not_finite
from training_flax.run.logs import Logs, StepLog, train_means
from training_flax.run.plan import Job
from training_flax.run.programs import Programs
from training_flax.runtime.lost_processes import ProcessLost, check_processes
from training_flax.runtime.memory import trim_memory
from training_flax.runtime.signals import DUE, GO_ON, SAVE, STOP, RunError, StopAsked, Stopped, StopRequest
from training_flax.runtime.terminal import Terminal, progress_bar

# Epochs of a second do not each end with a checkpoint: it comes for a fiftieth of the time, or every ten seconds.
SHARE_OF_CHECKPOINTS = 0.02
SHORT_EPOCH = 10.0  # seconds


class LoopResult(NamedTuple):
    """The results of a finished loop."""

    state: TrainState
    evaluation: Evaluation  # after the last epoch, of the averaged weights if there are any
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
        self.test_split = on_device(job.dataset.test, job.devices)
        self.train_reader = train_reader(job)
        seen = dict(interpolation=job.config.interpolation, rule=job.config.test_crop_rule)
        self.test_reader = test_reader(job.dataset.test, job.config.test_crop, job.config.workers, **seen)
        schedule = learning_rate(job.config, job.total_steps)
        self.learning_rates = np.asarray(jax.vmap(schedule)(np.arange(job.total_steps)))
        self.saved_at = time.monotonic()
        self.seconds, self.steps_taken = 0.0, 0

    def run(self) -> LoopResult:
        """Trains to the end.

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
        first = next((e for e in range(1, job.epochs + 1) if job.last_step(e) > self.progress.evaluated), job.epochs)
        self.stop.armed = True  # and stays so: later signals wait for the run's last file
        try:
            with jax.transfer_guard("disallow"):
                for epoch in range(first, job.epochs + 1):
                    steps = range(self.step, job.last_step(epoch))
                    due = self.take_steps(epoch, steps)
                    evaluation = self.evaluate(epoch)
                    if due or epoch == job.epochs:
                        self.save()
        except UnreadableImage as error:
            if jax.process_count() > 1:  # all processes must save together, and the others had no error
                raise
            self.save(wait=True)
            raise RunError(f"{error}; the state after step {self.step} is saved in {job.run}") from error
        except StopAsked as asked:
            self.act(asked.stop_signal)
        finally:
            for reader in (self.train_reader, self.test_reader):
                if reader:
                    reader.close()
        return LoopResult(self.state, evaluation, self.progress, self.images_per_second)

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
                    self.progress = self.progress._replace(seconds=before + time.perf_counter() - start)
                    # The last step of an epoch needs no SAVE: a checkpoint follows the evaluation.
                    if stop_signal >= STOP or (stop_signal == SAVE and self.step < steps.stop):
                        self.read(log, pending, batch)
                        pending = None
                        self.act(stop_signal)
                        stop_signal = GO_ON
            except (UnreadableImage, StopAsked, ProcessLost):
                if pending is not None:  # the steps before count
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

    def save(self, wait: bool = False) -> None:
        """Writes a checkpoint of the current state, in the background unless `wait` is True."""
        self.progress = self.progress._replace(lines=self.logs.metrics.lines)
        self.checkpoints.save(self.step, self.state, self.progress)
        if wait:
            self.checkpoints.close()
        self.saved_at = time.monotonic()

    def evaluate(self, epoch: int) -> Evaluation:
        """Evaluates the network and its averaged weights; logs, prints and draws the results."""
        job, batch_size = self.job, whole_batch(self.job.batch_size, self.job.devices)
        networks: dict[str, Any] = {"test": {"params": self.state.params, "batch_stats": self.state.batch_stats}}
        if self.state.ema is not None:
            networks["test of averaged weights"] = self.state.ema
        for split, variables in networks.items():
            step = partial(self.programs.eval_step, job.devices.gather(variables), self.test_split)
            evaluation = evaluate_part(
                step, job.dataset.test, batch_size, job.devices, self.test_reader, self.check_stop
            )
            line = {"split": split, "step": self.step, "epoch": job.epoch_of(self.step)}
            self.logs.write(line | {"loss": evaluation.loss, "accuracy": evaluation.accuracy})
        # A run that only repeats its last evaluation has the sums of no epoch.
        repeated = self.progress.evaluated == self.step
        train = "" if repeated else train_means(self.progress, job.last_step(epoch) - job.last_step(epoch - 1))
        self.progress = self.progress._replace(evaluated=self.step, epoch_sums=(0.0, 0.0, 0))
        if evaluation.accuracy > self.progress.best_accuracy:
            self.progress = self.progress._replace(best_accuracy=evaluation.accuracy, best_step=self.step)
        self.terminal.say(
            f"epoch {epoch}/{job.epochs}  {train}"
            f"test loss {evaluation.loss:.4f}, accuracy {100 * evaluation.accuracy:.2f} %  "
            f"{self.images_per_second:.0f} images/s"
        )
        self.logs.draw()
        return evaluation


def train_reader(job: Job) -> Reader | None:
    """Makes the reader of a streamed train split: random crops if the config has them, else the middle of images."""
    split, config = job.dataset.train, job.config
    if isinstance(split, Split):
        return None
    size, area = split.image_shape[0], job.min_area
    seen = dict(interpolation=config.interpolation, rule=config.test_crop_rule)
    if area is None:
        return Reader(split, central_fit(size, 1.0, **seen), config.workers)
    return Reader(split, random_fit(size, config.seed, area, config.test_crop, **seen), config.workers)

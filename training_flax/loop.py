"""The training loop: epochs of steps, an evaluation and a checkpoint after each."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from training_flax.checkpoints import Checkpoints
from training_flax.data import Part, batch_indices
from training_flax.evaluation import Evaluation, evaluate_part
from training_flax.job import Job
from training_flax.programs import Programs
from training_flax.run_folder import append_metrics
from training_flax.steps import TrainMetrics, TrainState, learning_rate
from training_flax.terminal import Bar, Terminal


class Trained(NamedTuple):
    """What the loop leaves."""

    state: TrainState
    evaluation: Evaluation  # of the last epoch
    images_per_second: float  # of training alone


def train(job: Job, programs: Programs, terminal: Terminal) -> Trained:
    """Trains as `job` says. Every transfer in here is named (device_put, device_get): a hidden one is an error."""
    state = programs.init()
    train_part, test_part = jax.device_put(job.dataset.train), jax.device_put(job.dataset.test)
    rate_of = learning_rate(job.config, job.total_steps)
    rates = np.asarray(jax.vmap(rate_of)(np.arange(job.total_steps)))
    checkpoints, seconds = Checkpoints(job.run), 0.0
    with jax.transfer_guard("disallow"):
        for epoch in range(1, job.epochs + 1):
            steps = range(job.last_step(epoch - 1), job.last_step(epoch))
            start = time.perf_counter()
            with terminal.bar(f"epoch {epoch}/{job.epochs}", len(steps) * job.batch_size) as bar:
                log = StepLog(job, steps, rates, bar)
                batches = (batch_indices(s, job.batch_size, len(train_part.labels), job.config.seed) for s in steps)
                state = run_steps(programs.train_step, state, train_part, batches, log.add)
            jax.block_until_ready(state)
            seconds += time.perf_counter() - start

            variables = {"params": state.params, "batch_stats": state.batch_stats}
            evaluation = evaluate_part(partial(programs.eval_step, variables), test_part, job.batch_size)
            line = {"split": "test", "step": steps.stop, "epoch": job.epoch_of(steps.stop)}
            append_metrics(job.run, line | {"loss": evaluation.loss, "accuracy": evaluation.accuracy})
            checkpoints.save(steps.stop, state)
            speed = steps.stop * job.batch_size / seconds
            terminal.say(
                f"epoch {epoch}/{job.epochs}  train loss {log.loss:.4f}, accuracy {100 * log.accuracy:.2f} %  "
                f"test loss {evaluation.loss:.4f}, accuracy {100 * evaluation.accuracy:.2f} %  {speed:.0f} images/s"
            )
    checkpoints.close()
    return Trained(state, evaluation, speed)


def run_steps(
    train_step: Callable[[TrainState, Part, jax.Array], tuple[TrainState, TrainMetrics]],
    state: TrainState,
    part: Part,
    batches: Iterable[np.ndarray],
    on_step: Callable[[TrainMetrics], None],
) -> TrainState:
    """Takes a step for each batch of indices; `on_step` gets each step's metrics, one step late.

    Late, so that the device has its next step to do while the host reads what the last one said.
    """
    pending: TrainMetrics | None = None
    for indices in batches:
        state, metrics = train_step(state, part, jax.device_put(indices))
        if pending is not None:
            on_step(jax.device_get(pending))
        pending = metrics
    if pending is not None:
        on_step(jax.device_get(pending))
    return state


class StepLog:
    """The steps of one epoch, told to the progress bar and, ten times an epoch, to metrics.jsonl."""

    def __init__(self, job: Job, steps: range, rates: np.ndarray, bar: Bar):
        self._job, self._steps, self._rates, self._bar = job, steps, rates, bar
        self._every = max(1, round(len(job.dataset.train.labels) / job.batch_size / 10))
        self._losses: list[float] = []
        self._accuracies: list[float] = []

    def add(self, metrics: TrainMetrics) -> None:
        """Takes the next step's metrics, read to the host."""
        self._losses.append(float(metrics.loss))
        self._accuracies.append(float(metrics.accuracy))
        done = len(self._losses)
        recent = slice(-(((done - 1) % self._every) + 1), None)
        loss, accuracy = float(np.mean(self._losses[recent])), float(np.mean(self._accuracies[recent]))
        self._bar.advance(self._job.batch_size, f"loss {loss:.3f}, accuracy {100 * accuracy:.1f} %")
        if done % self._every == 0 or done == len(self._steps):
            step = self._steps.start + done
            line = {"split": "train", "step": step, "epoch": self._job.epoch_of(step)}
            append_metrics(
                self._job.run,
                line | {"loss": loss, "accuracy": accuracy, "learning_rate": float(self._rates[step - 1])},
            )

    @property
    def loss(self) -> float:
        """The mean over the epoch so far."""
        return float(np.mean(self._losses))

    @property
    def accuracy(self) -> float:
        """The mean over the epoch so far."""
        return float(np.mean(self._accuracies))

"""The evaluations of a run: after each epoch on the part that is watched, and of the best weights on the test part."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.experimental.multihost_utils import sync_global_devices

from training_flax.data.dataset import AnySplit
from training_flax.data.loader import Reader
from training_flax.learn.evaluation import Evaluation, evaluate_part, on_device, test_reader, whole_batch
from training_flax.learn.state import TrainState
from training_flax.run.job import Job
from training_flax.run.logs import Logs
from training_flax.run.programs import Programs
from training_flax.runtime.signals import RunError
from weights_flax import load_weights


class Evaluations:
    """Evaluates the weights of a run, and logs the results.

    Args:
        job: the run.
        programs: its programs.
        logs: where the results go.
        check: is called between batches, and may raise an error to end an evaluation.

    Attributes:
        part: the name of the part that is watched, "validation" or "test".
    """

    def __init__(self, job: Job, programs: Programs, logs: Logs, check: Callable[[], None]):
        self._job, self._programs, self._logs, self._check = job, programs, logs, check
        self._batch_size = whole_batch(job.batch_size, job.devices)
        self._readers: list[Reader | None] = []
        self.part, self._split = job.dataset.watched
        self._on_device = on_device(self._split, job.devices)
        self._reader = self._reader_of(self._split)

    def of_state(self, state: TrainState, step: int) -> Evaluation:
        """Evaluates the network after a step, and its averaged weights; returns the results of the last of them."""
        networks: dict[str, Any] = {self.part: {"params": state.params, "batch_stats": state.batch_stats}}
        if state.ema is not None:
            networks[f"{self.part} of averaged weights"] = state.ema
        for split, variables in networks.items():
            program = partial(self._programs.eval_step, self._job.devices.gather(variables), self._on_device)
            evaluation = self._evaluate(program, self._split, self._reader)
            self._log(split, evaluation, step, step)
        return evaluation

    def of_best(self, step: int, best_step: int) -> tuple[Any, Evaluation]:
        """Evaluates the weights with the best validation score on the test part, which is looked at here alone.

        Args:
            step: the last step of the run.
            best_step: the step of these weights, whose checkpoint is on the disk.

        Returns:
            The variables, and the results. Raises RunError if the checkpoint of these weights cannot be read.
        """
        job, test = self._job, self._job.dataset.test
        with jax.transfer_guard("allow"):
            if jax.process_count() > 1:
                sync_global_devices("best checkpoint")  # the first process has given it its name
            try:
                best = load_weights(job.eval_model, job.run, which="best")
            except ValueError as error:
                raise RunError(f"the best weights, after step {best_step}, are lost: {error}") from None
            variables = job.devices.replicate(job.arranged(best))
        program = partial(self._programs.test_step, variables, on_device(test, job.devices))
        evaluation = self._evaluate(program, test, self._reader_of(test))
        self._log("test of best weights", evaluation, step, best_step)
        return best, evaluation

    def close(self) -> None:
        """Closes the readers of images."""
        for reader in filter(None, self._readers):
            reader.close()

    def _evaluate(self, program: Any, split: AnySplit, reader: Reader | None) -> Evaluation:
        return evaluate_part(program, split, self._batch_size, self._job.devices, reader, self._check)

    def _reader_of(self, split: AnySplit) -> Reader | None:
        config = self._job.config
        seen = dict(interpolation=config.interpolation, rule=config.test_crop_rule)
        self._readers.append(test_reader(split, config.test_crop, config.workers, **seen))
        return self._readers[-1]

    def _log(self, split: str, evaluation: Evaluation, step: int, trained: int) -> None:
        """Writes an evaluation at the step `step`, of weights after the step `trained`."""
        line = {"split": split, "step": step, "epoch": self._job.epoch_of(trained)}
        self._logs.write(line | evaluation.means)

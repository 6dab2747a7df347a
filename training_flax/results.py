"""The results of a finished run: weights, pictures and summary, and the check that they are whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec

from common_flax.check_sums import sealed
from common_flax.files import sync
from resnet_flax import unstack_blocks
from training_flax.data.built_in import preparation_of
from training_flax.data.dataset import BatchedSplit, Dataset, StreamedSplit
from training_flax.files.disk_space import checkpoint_size
from training_flax.inference.likeness import likeness_of
from training_flax.inference.transform import View
from training_flax.learn.evaluation import Evaluation, test_reader
from training_flax.mistakes import (
    MISTAKES,
    PREDICTIONS,
    draw_worst,
    lines_about,
    mistakes_size,
    scores_in_summary,
    sum_of_predictions,
    write_predictions,
)
from training_flax.plots.curves import draw_confusion
from training_flax.run import folder as run_folder
from training_flax.run.job import Job
from training_flax.run.loop import LoopResult
from training_flax.run.metrics import METRICS, sum_of_metrics
from training_flax.run.summary import read_summary
from training_flax.runtime.terminal import Terminal
from weights_flax import load_weights, read_card, save_weights
from weights_flax.formats.run import FILES, SUMMARY, data_of

CONFUSION = "confusion.png"
PICTURES_SIZE = 1_000_000  # bytes of the pictures and short texts together, an upper estimate
END_OF_PNG = b"IEND\xaeB`\x82"


def origins(job: Job, step: int, best_step: int) -> dict[str, dict[str, Any]]:
    """Returns the files of weights that a finished run has, by name, with what their cards say of their origin.

    Args:
        job: the run.
        step: the last step.
        best_step: the one with the best score on the validation part, if there is one.
    """
    steps = {"last": step, **({"averaged": step} if job.config.ema else {})}
    steps |= {} if job.dataset.validation is None else {"best": best_step}
    return {FILES[which]: {"mark": job.mark, "step": step, "which": which} for which, step in steps.items()}


def pictures(job: Job) -> tuple[str, ...]:
    """Returns the names of a run's pictures, but for that of mistakes; several classes an image have no confusions."""
    return ("batch.png", "curves.png", *(() if job.dataset.multi_label else (CONFUSION,)))


def preprocessing(job: Job) -> dict[str, Any]:
    """Returns the entry of the cards that tells how test images become what the network sees."""
    config = job.config
    seen = {"crop": config.test_crop, "crop_rule": config.test_crop_rule, "interpolation": config.interpolation}
    seen |= {"keep": not isinstance(job.dataset.test, StreamedSplit), "preparation": preparation_of(job.dataset.name)}
    return seen


def training_images(job: Job) -> dict[str, Any] | None:
    """Returns the entry of the cards that tells what training images are like, seen as in a test.

    Values that are no pixels, and images that come once in their iterable's order, give none.
    """
    train, about, (height, width, channels) = job.dataset.train, preprocessing(job), job.dataset.image_shape
    if isinstance(train, BatchedSplit) or not job.dataset.pixels:
        return None
    view = View((height, width), channels, **about | {"preparation": "none"})
    return msgspec.to_builtins(likeness_of(train, view))


def results_size(job: Job, state: Any) -> int:
    """Returns an upper estimate of the bytes that the results take on the disk; a state of shapes will do."""
    weights = len(origins(job, 0, 0)) * checkpoint_size((state.params, state.batch_stats))
    return weights + mistakes_size(job.dataset) + PICTURES_SIZE


class Finish(NamedTuple):
    """The end of a finished run.

    Attributes:
        steps: the steps taken.
        planned: the steps that it was to take: more, if a callback stopped it.
        stopped_by: the name of that callback; empty if none did.
        patience: the patience that ran out; None if none did.
    """

    steps: int
    planned: int
    stopped_by: str
    patience: int | None

    def is_of(self, job: Job) -> bool:
        """Tells if a run with this end has nothing left to do: neither more steps, nor another patience."""
        return max(self.steps, self.planned) >= job.total_steps or (
            self.patience is not None and self.patience == job.config.patience
        )

    def told(self, job: Job) -> str:
        """Tells the number of steps, and why there are no more."""
        if self.stopped_by:
            return f"{self.steps} of {self.planned} steps, stopped by {self.stopped_by}"
        return f"{self.steps} steps" + (
            "" if self.steps >= job.total_steps else f" of {job.total_steps}, for its patience"
        )


def finish_of(run: Path) -> Finish | None:
    """Reads the end of a finished run; None if it is not finished, or its summary is damaged."""
    try:
        summary = read_summary(run)
    except ValueError:
        return None
    steps = summary.get("steps")
    if steps is None:
        return None
    planned, patience = summary.get("planned_steps", steps), summary.get("stopped_early")
    return Finish(steps, planned, summary.get("stopped_by", ""), patience)


def broken_results(job: Job, steps: int) -> list[str]:
    """Returns the names of the results of a run finished after `steps` that are missing, damaged, or another run's."""
    broken = [name for name in pictures(job) if not is_whole_picture(job.run / name)]
    summary = read_summary(job.run)
    if (expected := summary.get("predictions_check_sum")) is not None:  # older versions wrote no mistakes
        broken += [] if is_whole_picture(job.run / MISTAKES) else [MISTAKES]
        broken += [] if sum_of_predictions(job.run) == expected else [PREDICTIONS]
    if summary.get("mark") not in (None, job.mark):
        broken.append(SUMMARY)
    for name, origin in origins(job, steps, summary.get("best_step", 0)).items():
        try:
            load_weights(job.eval_model, job.run / name)
            of_this_run = read_card(job.run / name).get("run") in (origin, *([] if "mark" in summary else [None]))
        except ValueError:
            of_this_run = False
        broken += [] if of_this_run else [name]
    return broken


def is_whole_picture(path: Path) -> bool:
    """True if the file is there, and ends as PNGs do."""
    return path.is_file() and path.read_bytes().endswith(END_OF_PNG)


def write_results(
    job: Job, result: LoopResult, terminal: Terminal, compile_seconds: float, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes weights, pictures and summary of a finished run, and prints its accuracy.

    The summary comes last, when all else is on the disk.

    Returns:
        The summary, and the variables after the last step.
    """
    state, evaluation, best, progress, images_per_second = result
    config, dataset = job.config, job.dataset
    variables = unstack_blocks({"params": state.params, "batch_stats": state.batch_stats})
    weights: dict[str, Any] = {"last": variables}
    if state.ema is not None:
        weights["averaged"] = unstack_blocks(job.devices.gather(state.ema))
    if best is not None:
        weights["best"] = best
    tested = [*weights][-1]
    labels, names = dataset.test.labels, dataset.class_names
    steps, best_by = int(jax.device_get(state.step)), job.best_by.replace(" ", "_")
    summary = {
        "arch": config.arch,
        "data": config.data,
        "parameters": job.parameters,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "train_examples": dataset.train.examples,
        "test_examples": len(labels),
        "steps": steps,
        "skipped_steps": int(jax.device_get(state.skipped)),
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "tested_weights": tested,
        **scores_in_summary(evaluation, dataset),
        f"best_{best_by}": progress.best_accuracy,
        "best_step": progress.best_step,
        # A run that only repeats its results takes no steps.
        "images_per_second": images_per_second or steps * job.batch_size / max(progress.seconds, 1e-9),
        "compile_seconds": compile_seconds,
        "train_seconds": progress.seconds,
        "seconds": seconds,
        "mark": job.mark,
    }
    if dataset.validation is not None:
        summary["validation_examples"] = dataset.validation.examples
        summary[f"validation_{best_by}"] = progress.best_accuracy  # of the best weights
    if progress.stopped_by:
        summary |= {"stopped_by": progress.stopped_by, "planned_steps": job.total_steps}
    if steps < job.total_steps and job.ends_early(steps, progress.best_step):
        summary["stopped_early"] = config.patience
    if jax.process_index() == 0:
        # Values that the user normalised himself have a mean and std that only he knows.
        about: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std} if dataset.pixels else {}
        about |= {"class_names": names, "multi_label": dataset.multi_label or None}
        about |= {"image_shape": dataset.image_shape, "preprocessing": preprocessing(job)}
        seed = {"split_seed": config.seed} if dataset.drawn else {}
        about |= {"data": seed | data_of(config), "training_images": training_images(job)}
        for name, origin in origins(job, steps, progress.best_step).items():
            values: Any = jax.device_get(weights[origin["which"]])
            save_weights(job.eval_model, values, job.run / name, **about, run=origin)
        right = f"{100 * evaluation.accuracy:.2f} % of {len(labels):,} test images right"
        score = f"{right}: {config.arch} on {config.data}"
        if CONFUSION in pictures(job):
            draw_confusion(job.run / CONFUSION, labels, evaluation.predictions, names, score)
        _write_mistakes(job, evaluation)
        sync(job.run / METRICS)
        sums = {"metrics_check_sum": sum_of_metrics(job.run), "predictions_check_sum": sum_of_predictions(job.run)}
        summary = sealed(summary | sums)
        run_folder.write_json(job.run / SUMMARY, summary)
    step = progress.best_step if tested == "best" else steps
    terminal.say(score_line(f"{tested} weights after step {step}", dataset, evaluation))
    files = f"mistakes in {MISTAKES}, predictions in {PREDICTIONS}"
    drawn = "weights and curves" if dataset.multi_label else "weights, curves and confusion matrix"
    terminal.say(f"{drawn} are in {job.run} after {seconds:.0f} s; {files}")
    for line in lines_about(evaluation, dataset):
        terminal.say(line)
    return summary, variables


def score_line(weights: str, dataset: Dataset, evaluation: Evaluation) -> str:
    """Returns the line of a result: the weights, data and part, normalisation, accuracy and loss.

    Args:
        weights: what is evaluated, such as "averaged weights after step 45".
        dataset: its test part was evaluated; mean and std are those that the network saw.
        evaluation: the result.
    """
    labels, mean = dataset.test.labels, evaluation.mean_average_precision
    same = (evaluation.predictions == labels).reshape(len(labels), -1).all(1)
    right, total = int(same.sum()), len(labels)
    moments = ", ".join(f"{name} {_moment(getattr(dataset, name))}" for name in ("mean", "std"))
    part = f"{dataset.test_part}, {total:,} image{'s' * (total != 1)}"
    of_all = " in all classes" if dataset.multi_label else ""
    score = f"{100 * evaluation.accuracy:.2f} % ({right:,} right{of_all}), loss {evaluation.loss:.4f}"
    score += "" if mean is None else f", mean average precision {100 * mean:.2f} %"
    return f"test accuracy of the {weights} on {dataset.name} ({part}; {moments}): {score}"


def _moment(values: Sequence[float]) -> str:
    """Formats a number for each channel; equal ones, as of grey images, as one."""
    texts = [f"{value:.3f}" for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)


def _write_mistakes(job: Job, evaluation: Evaluation) -> None:
    config, test = job.config, job.dataset.test
    seen = dict(interpolation=config.interpolation, rule=config.test_crop_rule)
    reader = test_reader(test, config.test_crop, config.workers, **seen)
    try:
        draw_worst(job.run / MISTAKES, evaluation, job.dataset, reader, f"{config.arch} on {config.data}")
    finally:
        if reader:
            reader.close()
    write_predictions(job.run / PREDICTIONS, evaluation, job.dataset)

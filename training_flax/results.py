"""The results of a finished run: weights, pictures and summary, and the check that they are whole."""

from pathlib import Path
from typing import Any

import jax

from common_flax.check_sums import sealed
from common_flax.files import sync
from resnet_flax import unstack_blocks
from training_flax.data.dataset import Split
from training_flax.plots.curves import draw_confusion
from training_flax.run import folder as run_folder
from training_flax.run.disk_space import checkpoint_size
from training_flax.run.loop import LoopResult
from training_flax.run.metrics import METRICS, sum_of_metrics
from training_flax.run.plan import Job
from training_flax.run.summary import read_summary
from training_flax.runtime.terminal import Terminal
from weights_flax import load_weights, read_card, save_weights
from weights_flax.formats.run import FILES, SUMMARY

PICTURES = ("batch.png", "curves.png", "confusion.png")
PICTURES_SIZE = 1_000_000  # bytes of all pictures and texts together, an upper estimate
END_OF_PNG = b"IEND\xaeB`\x82"


def origins(job: Job) -> dict[str, dict[str, Any]]:
    """Returns the files of weights that a finished run has, by name, with what their cards say of their origin."""
    about = {"mark": job.mark, "step": job.total_steps}
    return {FILES[which]: about | {"which": which} for which in ("last", *(["averaged"] if job.config.ema else []))}


def preprocessing(job: Job) -> dict[str, Any]:
    """Returns the entry of the cards that tells how test images become what the network sees."""
    config = job.config
    seen = {"crop": config.test_crop, "crop_rule": config.test_crop_rule, "interpolation": config.interpolation}
    return seen | {"keep": isinstance(job.dataset.test, Split)}


def results_size(job: Job, state: Any) -> int:
    """Returns an upper estimate of the bytes that the results take on the disk; a state of shapes will do."""
    return len(origins(job)) * checkpoint_size((state.params, state.batch_stats)) + PICTURES_SIZE


def finished_steps(run: Path) -> int | None:
    """Returns the number of steps of a finished run; None if it is not finished, or its summary is damaged."""
    try:
        return read_summary(run).get("steps")
    except ValueError:
        return None


def broken_results(job: Job) -> list[str]:
    """Returns the names of the results of a finished run that are missing, damaged, or of another run."""
    broken = [name for name in PICTURES if not is_whole_picture(job.run / name)]
    summary = read_summary(job.run)
    if summary.get("mark") not in (None, job.mark):
        broken.append(SUMMARY)
    for name, origin in origins(job).items():
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
    state, evaluation, progress, images_per_second = result
    config, dataset = job.config, job.dataset
    variables = unstack_blocks({"params": state.params, "batch_stats": state.batch_stats})
    average = None if state.ema is None else unstack_blocks(job.devices.gather(state.ema))
    labels, names = dataset.test.labels, dataset.class_names
    right, accuracy = int((evaluation.predictions == labels).sum()), f"{100 * evaluation.accuracy:.2f} %"
    summary = {
        "arch": config.arch,
        "data": config.data,
        "parameters": job.parameters,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "train_examples": len(dataset.train.labels),
        "test_examples": len(labels),
        "steps": job.total_steps,
        "skipped_steps": int(jax.device_get(state.skipped)),
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "best_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        # A run that only repeats its results takes no steps.
        "images_per_second": images_per_second or job.total_steps * job.batch_size / max(progress.seconds, 1e-9),
        "compile_seconds": compile_seconds,
        "train_seconds": progress.seconds,
        "seconds": seconds,
        "mark": job.mark,
    }
    if jax.process_index() == 0:
        about: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std, "class_names": names}
        about |= {"image_shape": dataset.image_shape, "preprocessing": preprocessing(job)}
        for (name, origin), weights in zip(origins(job).items(), (variables, average), strict=False):
            values: Any = jax.device_get(weights)
            save_weights(job.eval_model, values, job.run / name, **about, run=origin)
        score = f"{config.arch} on {config.data}: {accuracy} of {len(labels)} test images"
        draw_confusion(job.run / "confusion.png", labels, evaluation.predictions, names, score)
        sync(job.run / METRICS)
        summary = sealed(summary | {"metrics_check_sum": sum_of_metrics(job.run)})
        run_folder.write_json(job.run / SUMMARY, summary)
    averaged = " of the averaged weights" if state.ema is not None else ""
    terminal.say(f"test accuracy{averaged} {accuracy} ({right} of {len(labels)} images), loss {evaluation.loss:.4f}")
    terminal.say(f"weights, curves and confusion matrix are in {job.run} after {seconds:.0f} s")
    return summary, variables

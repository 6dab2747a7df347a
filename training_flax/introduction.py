"""The lines that a run begins with: devices, network, data, a user's own parts, recipe and folder."""

from collections.abc import Sequence
from typing import Any

import jax

from common_flax.terminal import as_numbers
from training_flax.data.dataset import BatchedSplit, Dataset
from training_flax.data.open import GIVEN
from training_flax.data.source import MEASURED
from training_flax.given.names import qualified_name
from training_flax.learn.layer_rates import told as layer_rates
from training_flax.learn.optimizers import peak_rate
from training_flax.run.job import Job
from training_flax.runtime.terminal import Terminal

NAMED = 10  # files that are passed over, and classes with weights


def introduce(job: Job, terminal: Terminal) -> None:
    """Prints devices, network, data and options of the run."""
    config, dataset, device = job.config, job.dataset, jax.devices()[0]
    shape = "×".join(map(str, dataset.image_shape))
    apart = "" if dataset.validation is None else f", {dataset.validation.examples:,} validation"
    counts = f"{dataset.train.examples:,} train{apart} and {dataset.test.examples:,} test images"
    length = f"{job.total_steps} steps" if config.steps else f"{config.epochs} epochs, {job.total_steps} steps"
    rate = f"peak learning rate {peak_rate(config):g}" if job.own.optimizer is None else "your own optimizer"
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    terminal.say(f"device  {jax.device_count()} × {device.device_kind}{processes}, JAX {jax.__version__}")
    terminal.say(f"model   {config.arch}, {job.parameters:,} parameters, {config.dtype}")
    several = ", none, one or several an image" if dataset.multi_label else ""
    terminal.say(f"data    {config.data}, {counts} of {shape}, {len(dataset.class_names)} classes{several}")
    resumes = [f"resumes {how}"] if (how := resumption(job)) else []
    for note in (normalised(job), *several_classes(dataset), *dataset.notes, *passed_over(dataset), *resumes):
        terminal.say(f"        {note}")
    for line in own_parts(job):
        terminal.say(line)
    terminal.say(f"recipe  {config.recipe}: {length}, batch size {job.batch_size}, {rate}, seed {config.seed}")
    if config.layer_decay != 1:
        terminal.say(f"rates   {layer_rates(config, config.layer_decay)}")
    if job.class_weights is not None:
        of_class = " of images that have the class" if dataset.multi_label else ""
        terminal.say(f"loss    weights{of_class} {_shown_weights(job.class_weights, dataset.class_names)}")
    terminal.say(f"run     {job.run}")


def several_classes(dataset: Dataset) -> list[str]:
    """Returns a line on the classes of a train image; none where each has one, or its labels come with the images."""
    labels = dataset.train.labels
    if not dataset.multi_label or not len(labels):
        return []
    numbers = labels.sum(1, dtype=int)
    if (numbers == 1).all():
        return ["each train image has one class; labels of one class an image would train by softmax"]
    without = f", {100 * (numbers == 0).mean():.3g} % of the images without any"
    return [f"{numbers.mean():.3g} classes a train image{without}; each has a probability of its own, by sigmoid"]


def _shown_weights(weights: Sequence[float], names: Sequence[str]) -> str:
    shown = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    return ", ".join(shown[:NAMED]) + (", …" if len(shown) > NAMED else "")


def own_parts(job: Job) -> list[str]:
    """Returns a line for each part of the run that the user passed: loss, optimizer, callbacks; empty without any."""
    names, lines = job.own_names, []
    if "own_loss" in names:
        lines.append(f"loss    your own, {names['own_loss']}")
    if "own_optimizer" in names:
        unused = "learning rate, schedule, decay and clipping of the recipe do not apply"
        lines.append(f"optim   your own, {names['own_optimizer']}; {unused}")
    if job.own.callbacks:
        lines.append(f"calls   {', '.join(map(qualified_name, job.own.callbacks))}")
    return lines


def normalised(job: Job) -> str:
    """Returns a line that tells mean and std, where they are from, and if the weights to start from name none."""
    dataset, weights = job.dataset, job.config.weights
    line = f"mean {as_numbers(dataset.mean)}, std {as_numbers(dataset.std)}, {dataset.moments_from}"
    silent = weights is not None and dataset.moments_from == MEASURED
    return f"{line}; the weights {weights} name none (--mean, --std)" if silent else line


def resumption(job: Job) -> str:
    """Returns the way in which a run resumes, if a user passed its data; empty for data that the config names."""
    if job.config.data.partition(":")[0] not in GIVEN:
        return ""
    if isinstance(job.dataset.train, BatchedSplit):
        return "by epochs: the iterable begins anew, and the bits are not those of a run that never stopped"
    told = "while the images stay the same" if job.dataset.train_sum is None else "told by a hash of the images"
    return f"bit for bit, {told}"


def facts(job: Job) -> dict[str, Any]:
    """Returns the entries of config.json that tell what a user passed; empty for a run that its config describes."""
    entries: dict[str, Any] = {"callbacks": tuple(map(qualified_name, job.own.callbacks))}
    entries |= {"unused_options": job.own.unused, "resumption": resumption(job), **job.own_names}
    return {name: value for name, value in entries.items() if value} | ({} if job.dataset.pixels else {"pixels": False})


def passed_over(dataset: Dataset) -> list[str]:
    """Returns a line that counts the files among the images that are none, and names some; empty if there are none."""
    files = dataset.passed_over
    if not files:
        return []
    named = ", ".join(map(repr, files[:NAMED])) + (", …" if len(files) > NAMED else "")
    return [
        f"passed over, being no image{'s' * (len(files) > 1)}: {len(files):,} file{'s' * (len(files) > 1)}: {named}"
    ]

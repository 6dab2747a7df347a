"""A training run, from its options to the folder it leaves."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from training_flax import run_folder
from training_flax.archs import to_torch
from training_flax.config import TrainConfig
from training_flax.job import Job, prepare
from training_flax.loop import train
from training_flax.pictures import draw_confusion, draw_curves
from training_flax.programs import compile_programs
from training_flax.terminal import Terminal


@dataclass(frozen=True)
class FitResult:
    """What a run leaves.

    Attributes:
        run: its folder.
        summary: what summary.json holds.
        model: the network.
        variables: {"params", "batch_stats"} after the last step.
    """

    run: Path
    summary: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]


def fit(config: TrainConfig | Job, *, quiet: bool = False) -> FitResult:
    """Trains a network, evaluates it after every epoch on the whole test part, and writes the run's folder.

    The folder holds config.json, metrics.jsonl, summary.json, curves.png, confusion.png, model.safetensors and
    checkpoints/.

    Args:
        config: the options, or what `prepare` made of them.
        quiet: say nothing on the terminal.

    Raises:
        ValueError: as `prepare`, before anything is written.
    """
    job = config if isinstance(config, Job) else prepare(config)
    terminal, start = Terminal(quiet), time.perf_counter()
    introduce(job, terminal)
    job.run.mkdir(parents=True, exist_ok=True)
    run_folder.write_config(job.run, job.config, job.dataset)
    terminal.say("compiling; a network's first start takes a while, the next find it in the cache")
    programs = compile_programs(job)
    compile_seconds = time.perf_counter() - start
    terminal.say(f"compiled in {compile_seconds:.1f} s")

    state, evaluation, images_per_second = train(job, programs, terminal)

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    run_folder.write_weights(job.run, to_torch(job.model, jax.device_get(variables)), job.config, job.dataset)
    labels, names = job.dataset.test.labels, job.dataset.class_names
    right, accuracy = int((evaluation.predictions == labels).sum()), f"{100 * evaluation.accuracy:.2f} %"
    title = f"{job.config.arch} on {job.config.data}"
    draw_curves(job.run / "curves.png", run_folder.read_metrics(job.run), title)
    score = f"{title}: {accuracy} of {len(labels)} test images"
    draw_confusion(job.run / "confusion.png", labels, evaluation.predictions, names, score)
    summary = {
        "arch": job.config.arch,
        "data": job.config.data,
        "parameters": job.parameters,
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "train_examples": len(job.dataset.train.labels),
        "test_examples": len(labels),
        "steps": job.total_steps,
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "images_per_second": images_per_second,
        "compile_seconds": compile_seconds,
        "seconds": time.perf_counter() - start,
    }
    run_folder.write_json(job.run / "summary.json", summary)
    terminal.say(f"test accuracy {accuracy} ({right} of {len(labels)} images), loss {evaluation.loss:.4f}")
    terminal.say(f"weights, curves and confusion matrix are in {job.run} after {summary['seconds']:.0f} s")
    return FitResult(job.run, summary, job.model, variables)


def introduce(job: Job, terminal: Terminal) -> None:
    """Says what the run has found: devices, network, data, options."""
    config, dataset, device = job.config, job.dataset, jax.devices()[0]
    shape = "×".join(map(str, dataset.train.images.shape[1:]))
    parts = f"{len(dataset.train.labels):,} train and {len(dataset.test.labels):,} test images"
    length = f"{job.total_steps} steps" if config.steps else f"{config.epochs} epochs, {job.total_steps} steps"
    terminal.say(f"device  {jax.device_count()} × {device.device_kind}, JAX {jax.__version__}")
    terminal.say(f"model   {config.arch}, {job.parameters:,} parameters, {config.dtype}")
    terminal.say(f"data    {config.data}, {parts} of {shape}, {len(dataset.class_names)} classes")
    terminal.say(f"train   {length}, batch size {job.batch_size}, peak rate {config.lr}, seed {config.seed}")
    terminal.say(f"run     {job.run}")

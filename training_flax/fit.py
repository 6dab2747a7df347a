"""Training runs, from their options to their folders."""

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.backend import usual_settings
from common_flax.check_sums import sealed
from common_flax.terminal import as_numbers
from training_flax.config.config import TrainConfig
from training_flax.config.of_run import options_of_run
from training_flax.data.dataset import Dataset
from training_flax.data.loader import Loader, read_ahead
from training_flax.data.source import MEASURED
from training_flax.learn.evaluation import on_device
from training_flax.learn.layer_rates import told as layer_rates
from training_flax.learn.optimizers import peak_rate
from training_flax.learn.starting_weights import starting_weights
from training_flax.learn.state import TrainState
from training_flax.plots.grids import draw_batch
from training_flax.results import (
    SUMMARY,
    broken_results,
    finished_steps,
    is_over,
    is_whole_picture,
    results_size,
    write_results,
)
from training_flax.run import folder as run_folder
from training_flax.run.alone import saving_alone
from training_flax.run.checkpoints import KEPT, Checkpoints, Progress
from training_flax.run.disk_space import check_space, checkpoint_size
from training_flax.run.folder import random_numbers
from training_flax.run.logs import Logs
from training_flax.run.loop import Loop, train_reader
from training_flax.run.metrics import METRICS
from training_flax.run.plan import Job, plan
from training_flax.run.programs import Programs, compile_programs, state_by_shape
from training_flax.run.summary import has_its_metrics, read_summary
from training_flax.runtime.lost_processes import ProcessLost
from training_flax.runtime.memory import memory_for
from training_flax.runtime.random_numbers import drawn_by
from training_flax.runtime.signals import RunError, StopRequest, interrupt_after_saving
from training_flax.runtime.terminal import Terminal
from weights_flax import load_weights
from weights_flax.formats.run import FILES

NAMED = 10  # files that are passed over


@dataclass(frozen=True)
class FitResult:
    """The results of a finished run.

    Attributes:
        run: the run's folder.
        summary: the contents of summary.json.
        model: the network.
        variables: {"params", "batch_stats"} after the last step.
    """

    run: Path
    summary: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]


def fit(config: TrainConfig | Job, *, quiet: bool = False, stop: StopRequest | None = None) -> FitResult:
    """Trains a network, evaluates it after every epoch on the whole test split, and writes the run's folder.

    With a validation part, that is looked at after every epoch, and the test split at the end, with the best weights.

    A run whose folder exists continues where it stopped, and ends with the same weights, bit for bit, as a run that
    never stopped; a finished run is not changed. The folder holds config.json, metrics.jsonl, summary.json, batch.png,
    curves.png, confusion.png, checkpoints/, model.safetensors (and model_ema.safetensors for averaged weights, and
    model_best.safetensors for the best ones on a validation part), and split.csv if parts were drawn.

    Args:
        config: the options, or the result of `plan`. A run that exists knows its own: `TrainConfig(out=RUN)` goes on.
        quiet: print nothing.
        stop: a request to stop, which signals can set. Without a handler of the caller's, Ctrl-C sets one too.

    Raises:
        ValueError: the errors of `plan`, before anything is written; or an image cannot be read.
        RunError: the run cannot go on, because the disk is full, its folder cannot be written, an image cannot be read,
            memory runs out, or its values are not finite; its checkpoints are saved.
        ProcessLost: a RunError: of several processes one has died.
        Stopped: `stop` was set; the state is saved.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
    """
    stop = stop or StopRequest()
    stop.armed = False
    options = config.config if isinstance(config, Job) else options_of_run(config)
    with usual_settings(x64=options.dtype == "float64"), interrupt_after_saving(stop):
        job = config if isinstance(config, Job) else plan(options)
        while True:
            try:
                with run_folder.written_to(job.run), memory_for(job.batch_size), drawn_by(random_numbers(job.run)):
                    return _fit(job, quiet, stop)
            except run_folder.InUse:
                if job.config.out is not None:
                    raise
                # Another run that began in the same second has taken the name.
                job = replace(job, run=run_folder.run_path(job.config, job.dataset))


def _fit(job: Job, quiet: bool, stop: StopRequest) -> FitResult:
    """Trains as `fit`, unless the run is finished."""
    first = jax.process_index() == 0
    terminal = Terminal(quiet or not first)
    finished, over = finished_steps(job.run), is_over(job)
    saved = run_folder.checkpoint_steps(job.run)
    if finished is not None and over:
        broken = ", ".join(broken_results(job))
        if not broken:
            early = "" if finished >= job.total_steps else f" of {job.total_steps}, for its patience"
            terminal.say(f"{job.run} is finished: {finished} steps{early}; its results are in {SUMMARY}")
            if not has_its_metrics(job.run, read_summary(job.run)):
                terminal.say(f"{METRICS} is missing, or not what was written; no other file has its entries")
            variables = jax.tree.map(jnp.asarray, load_weights(job.eval_model, job.run / FILES["last"]))
            return FitResult(job.run, sealed(run_folder.read_json(job.run / SUMMARY)), job.eval_model, variables)
        if not saved:
            raise RunError(f"{job.run} is finished, but has no checkpoint to write {broken} from, missing or damaged")
        terminal.say(f"{job.run} is finished, but these are missing or damaged, and written anew: {broken}")
    elif finished is not None and not saved:
        raise RunError(f"{job.run} is finished, after {finished} steps, but has no checkpoint to go on from")
    missing, state = max(KEPT + 2 - len(saved), 1), state_by_shape(job)
    needed = missing * checkpoint_size(state) + results_size(job, state)
    check_space(job.run, needed, f"{missing} checkpoint{'s' * (missing > 1)} and the results")
    with run_folder.locked(job.run) if first else nullcontext():
        return _run(job, terminal, stop)


def _run(job: Job, terminal: Terminal, stop: StopRequest) -> FitResult:
    start = time.perf_counter()
    introduce(job, terminal)
    if jax.process_index() == 0:
        run_folder.write_config(job.run, job.config, job.dataset, job.mark, job.lengths)
    logs, checkpoints = Logs(job), Checkpoints(job.run, job.mark, job.lengths)
    terminal.say("compiling; the first start of a network takes a while, later starts use the cache")
    programs = compile_programs(job)
    compile_seconds = time.perf_counter() - start
    terminal.say(f"compiled in {compile_seconds:.1f} s")

    state, progress = _first_state(job, programs, checkpoints, logs, terminal)
    logs.begin()
    try:
        loop = Loop(job, programs, state, progress, checkpoints, logs, terminal, stop)
        with saving_alone(loop):
            result = loop.run()
    except ProcessLost:
        raise  # what is left to be written waits for all processes
    except BaseException:
        for held in (checkpoints, logs):
            with suppress(Exception):  # the first error is the one to report
                held.close()
        raise
    checkpoints.close()
    logs.draw(final=True)
    try:
        summary, variables = write_results(job, result, terminal, compile_seconds, time.perf_counter() - start)
        logs.show_results(("confusion.png", "mistakes.png"))
    finally:
        logs.close()
    for line in passed_over(job.dataset):
        terminal.say(line)
    return FitResult(job.run, summary, job.eval_model, variables)


def _first_state(
    job: Job, programs: Programs, checkpoints: Checkpoints, logs: Logs, terminal: Terminal
) -> tuple[TrainState, Progress]:
    """Returns the state of the newest undamaged checkpoint, or the state before the first step."""
    newest = checkpoints.newest(programs.state)
    if newest is not None:
        step, state, progress, damaged = newest
        for line in damaged:
            terminal.say(line)
        terminal.say(f"going on after step {step} of {job.total_steps}")
        if jax.process_index() == 0:
            # A run that was killed after its last step repeats the last evaluations.
            over = step == progress.evaluated and job.ends_early(step, progress.best_step)
            evaluated = min(progress.evaluated - over, job.total_steps - 1)
            there = logs.metrics.rewind(step, evaluated, progress.lines)
            if there < progress.lines:
                terminal.say(f"{METRICS} has lost {progress.lines - there} of the {progress.lines} lines before")
            if not is_whole_picture(job.run / "batch.png"):
                _draw_first_batch(job, programs, state)
        return state, progress
    if jax.process_index() == 0:
        logs.metrics.rewind(0, 0, 0)
    state = programs.init()
    if job.config.weights is not None:
        state = with_weights(job, state)
    _draw_first_batch(job, programs, state)
    return state, Progress()


def with_weights(job: Job, state: TrainState) -> TrainState:
    """Replaces the parameters and statistics of `state`, and their averages, by those of `config.weights`."""
    variables, ema = job.devices.replicate(job.arranged(starting_weights(job.config, job.eval_model))), None
    if state.ema is not None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state.ema)
        ema = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)(variables)
    return state._replace(params=variables["params"], batch_stats=variables["batch_stats"], ema=ema)


def _draw_first_batch(job: Job, programs: Programs, state: TrainState) -> None:
    """Draws batch.png: the first batch, after all augmentation."""
    reader = train_reader(job)
    loader = Loader(job.dataset.train, range(1), job.batch_size, job.config.seed, job.devices, reader)
    loader.sampling = job.config.sampling
    rows = jax.tree.map(lambda leaf: leaf[: job.shown // jax.process_count()], loader.rows(0))
    (rows,) = read_ahead(job.dataset.train, [rows._replace(stop_signal=rows.epochs)], reader)
    if reader:
        reader.close()
    split = on_device(job.dataset.train, job.devices)
    images, targets = jax.device_get(programs.show(state, split, job.devices.put_rows(rows)))
    if jax.process_index() == 0:
        draw_batch(job.run / "batch.png", images, targets, job.dataset.class_names)


def introduce(job: Job, terminal: Terminal) -> None:
    """Prints devices, network, data and options of the run."""
    config, dataset, device = job.config, job.dataset, jax.devices()[0]
    shape = "×".join(map(str, dataset.image_shape))
    apart = "" if dataset.validation is None else f", {len(dataset.validation.labels):,} validation"
    counts = f"{len(dataset.train.labels):,} train{apart} and {len(dataset.test.labels):,} test images"
    length = f"{job.total_steps} steps" if config.steps else f"{config.epochs} epochs, {job.total_steps} steps"
    rate = f"peak learning rate {peak_rate(config):g}"
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    terminal.say(f"device  {jax.device_count()} × {device.device_kind}{processes}, JAX {jax.__version__}")
    terminal.say(f"model   {config.arch}, {job.parameters:,} parameters, {config.dtype}")
    terminal.say(f"data    {config.data}, {counts} of {shape}, {len(dataset.class_names)} classes")
    for note in (normalised(job), *dataset.notes, *passed_over(dataset)):
        terminal.say(f"        {note}")
    terminal.say(f"recipe  {config.recipe}: {length}, batch size {job.batch_size}, {rate}, seed {config.seed}")
    if config.layer_decay != 1:
        terminal.say(f"rates   {layer_rates(config, config.layer_decay)}")
    if job.class_weights is not None:
        terminal.say(f"loss    weights {_shown_weights(job.class_weights, dataset.class_names)}")
    terminal.say(f"run     {job.run}")


def normalised(job: Job) -> str:
    """Returns a line that tells mean and std, where they are from, and if the weights to start from name none."""
    dataset, weights = job.dataset, job.config.weights
    line = f"mean {as_numbers(dataset.mean)}, std {as_numbers(dataset.std)}, {dataset.moments_from}"
    silent = weights is not None and dataset.moments_from == MEASURED
    return f"{line}; the weights {weights} name none (--mean, --std)" if silent else line


def _shown_weights(weights: Sequence[float], names: Sequence[str]) -> str:
    shown = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    return ", ".join(shown[:NAMED]) + (", …" if len(shown) > NAMED else "")


def passed_over(dataset: Dataset) -> list[str]:
    """Returns a line that counts the files among the images that are none, and names some; empty if there are none."""
    files = dataset.passed_over
    if not files:
        return []
    named = ", ".join(map(repr, files[:NAMED])) + (", …" if len(files) > NAMED else "")
    return [
        f"passed over, being no image{'s' * (len(files) > 1)}: {len(files):,} file{'s' * (len(files) > 1)}: {named}"
    ]

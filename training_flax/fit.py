"""Training runs, from their options to their folders."""

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common_flax.backend import usual_settings
from common_flax.check_sums import sealed
from common_flax.terminal import complain, say
from training_flax.config.config import TrainConfig
from training_flax.data.dataset import Dataset
from training_flax.data.loader import Loader, read_ahead
from training_flax.learn.evaluation import Evaluation, evaluate, on_device
from training_flax.learn.optimizers import peak_rate
from training_flax.learn.starting_weights import starting_weights
from training_flax.learn.state import TrainState
from training_flax.plots.grids import draw_batch
from training_flax.results import (
    SUMMARY,
    broken_results,
    finished_steps,
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
from weights_flax.formats.open import open_weights
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

    A run whose folder exists continues where it stopped, and ends with the same weights, bit for bit, as a run that
    never stopped; a finished run is not changed. The folder holds config.json, metrics.jsonl, summary.json, batch.png,
    curves.png, confusion.png, model.safetensors (and model_ema.safetensors for averaged weights) and checkpoints/.

    Args:
        config: the options, or the result of `plan`.
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
    options = config.config if isinstance(config, Job) else config
    with usual_settings(x64=options.dtype == "float64"), interrupt_after_saving(stop):
        job = config if isinstance(config, Job) else plan(config)
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
    finished = finished_steps(job.run)
    saved = run_folder.checkpoint_steps(job.run)
    if finished is not None and finished >= job.total_steps:
        broken = ", ".join(broken_results(job))
        if not broken:
            terminal.say(f"{job.run} is finished: {finished} steps; its results are in {SUMMARY}")
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
    logs.close()
    summary, variables = write_results(job, result, terminal, compile_seconds, time.perf_counter() - start)
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
            # A run that was killed after its last step repeats the last evaluation.
            evaluated = min(progress.evaluated, job.total_steps - 1)
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
        state = _with_weights(job, state)
    _draw_first_batch(job, programs, state)
    return state, Progress()


def _with_weights(job: Job, state: TrainState) -> TrainState:
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
    counts = f"{len(dataset.train.labels):,} train and {len(dataset.test.labels):,} test images"
    length = f"{job.total_steps} steps" if config.steps else f"{config.epochs} epochs, {job.total_steps} steps"
    rate = f"peak learning rate {peak_rate(config):g}"
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    terminal.say(f"device  {jax.device_count()} × {device.device_kind}{processes}, JAX {jax.__version__}")
    terminal.say(f"model   {config.arch}, {job.parameters:,} parameters, {config.dtype}")
    terminal.say(f"data    {config.data}, {counts} of {shape}, {len(dataset.class_names)} classes")
    for note in (*dataset.notes, *passed_over(dataset)):
        terminal.say(f"        {note}")
    terminal.say(f"recipe  {config.recipe}: {length}, batch size {job.batch_size}, {rate}, seed {config.seed}")
    terminal.say(f"run     {job.run}")


def passed_over(dataset: Dataset) -> list[str]:
    """Returns a line that counts the files among the images that are none, and names some; empty if there are none."""
    files = dataset.passed_over
    if not files:
        return []
    named = ", ".join(map(repr, files[:NAMED])) + (", …" if len(files) > NAMED else "")
    return [
        f"passed over, being no image{'s' * (len(files) > 1)}: {len(files):,} file{'s' * (len(files) > 1)}: {named}"
    ]


def evaluate_run(config: TrainConfig, *, quiet: bool = False) -> Evaluation:
    """Evaluates the network of `config.weights`, or of the run in `config.out`, on the whole test split.

    A run gives its averaged weights if it has any, or those that `config.which` names.

    Raises:
        ValueError: both are None, the weights cannot be read, or an option is wrong, see `plan`.
    """
    source = config.weights or config.out
    if source is None:
        raise ValueError("evaluation needs weights, or the folder of a run as out; neither is given")
    with usual_settings(x64=config.dtype == "float64"):
        return _evaluate_run(config, source, quiet)


def _evaluate_run(config: TrainConfig, source: Path | str, quiet: bool) -> Evaluation:
    job = plan(replace(config, weights=str(source), out=None))
    variables = starting_weights(job.config, job.eval_model)
    seen = dict(interpolation=job.config.interpolation, crop_rule=job.config.test_crop_rule)
    evaluation = evaluate(job.eval_model, variables, job.dataset, job.batch_size, crop=job.config.test_crop, **seen)
    right, total = int((evaluation.predictions == job.dataset.test.labels).sum()), len(evaluation.predictions)
    kind = "averaged" if open_weights(source, which=config.which).which == "averaged" else config.which
    score = f"{100 * evaluation.accuracy:.2f} % ({right} of {total} images), loss {evaluation.loss:.4f}"
    weights = f" of the {kind} weights" if kind else ""
    if not quiet and jax.process_index() == 0:
        for note in (*job.dataset.notes, *passed_over(job.dataset)):
            complain(note)
        say(f"test accuracy{weights} {score}")  # the only result: where it cannot be printed, that is an error
    return evaluation

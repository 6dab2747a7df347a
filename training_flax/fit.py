"""Training runs, from their options to their folders."""

import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from common_flax.backend import usual_settings
from common_flax.check_sums import sealed
from layers_flax import Network
from training_flax.config.config import TrainConfig
from training_flax.config.of_run import options_of_run
from training_flax.data.dataset import BatchedSplit
from training_flax.data.loader import Loader, read_ahead, with_images
from training_flax.files.disk_space import check_space, checkpoint_size
from training_flax.given.callbacks import Callback
from training_flax.given.data import Data
from training_flax.given.own import applicable
from training_flax.introduction import facts, introduce, passed_over
from training_flax.learn.evaluation import on_device
from training_flax.learn.starting_weights import starting_weights
from training_flax.learn.state import TrainState
from training_flax.learn.steps import Loss
from training_flax.plots.grids import draw_batch
from training_flax.results import (
    SUMMARY,
    broken_results,
    finish_of,
    is_whole_picture,
    results_size,
    write_results,
)
from training_flax.run import folder as run_folder
from training_flax.run.checkpoints import KEPT, Checkpoints, Progress
from training_flax.run.folder import random_numbers
from training_flax.run.job import Job
from training_flax.run.logs import Logs
from training_flax.run.loop import Loop, train_reader
from training_flax.run.metrics import METRICS
from training_flax.run.plan import plan
from training_flax.run.programs import Programs, compile_programs, state_by_shape
from training_flax.run.summary import has_its_metrics, read_summary
from training_flax.runtime.alone import saving_alone
from training_flax.runtime.lost_processes import ProcessLost
from training_flax.runtime.memory import memory_for
from training_flax.runtime.random_numbers import drawn_by
from training_flax.runtime.signals import RunError, StopRequest, interrupt_after_saving
from training_flax.runtime.terminal import Terminal
from weights_flax import load_weights
from weights_flax.formats.run import FILES


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
    model: Network
    variables: dict[str, Any]


def fit(
    config: TrainConfig | Job,
    *,
    data: Data | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
    callbacks: Iterable[Callback] = (),
    quiet: bool = False,
    stop: StopRequest | None = None,
) -> FitResult:
    """Trains a network, evaluates it after every epoch on the whole test split, and writes the run's folder.

    With a validation part, that is looked at after every epoch, and the test split at the end, with the best weights.

    A run whose folder exists continues where it stopped, and ends with the same weights, bit for bit, as a run that
    never stopped; a finished run is not changed. The folder holds config.json, metrics.jsonl, summary.json, batch.png,
    curves.png, confusion.png, checkpoints/, model.safetensors (and model_ema.safetensors for averaged weights, and
    model_best.safetensors for the best ones on a validation part), and split.csv if parts were drawn.

    Args:
        config: the options, or the result of `plan`, which has taken the next four arguments. A run that exists knows
            its own: `TrainConfig(out=RUN)` goes on.
        data: train and test images in place of the data set that the config names: ((images, labels), (test_images,
            test_labels)) as for `dataset_from_arrays`; a `Dataset`; or iterables of batches, (train, test) or
            `Batches`, whose runs resume by epochs and not bit for bit.
        loss: (logits, targets) → losses, from (batch, classes) to (batch,), in place of the config's; see
            `make_train_step`. It is the loss of the evaluations too.
        optimizer: any of Optax's, in place of the config's; learning rate, schedule and decay are its own.
        callbacks: objects that see the run as it trains and may stop it, see `Callback`.
        quiet: print nothing.
        stop: a request to stop, which signals can set. Without a handler of the caller's, Ctrl-C sets one too.

    Raises:
        ValueError: the errors of `plan`, before anything is written; or an image cannot be read.
        RunError: the run cannot go on, because the disk is full, its folder cannot be written, an image cannot be read,
            memory runs out, or its values are not finite; its checkpoints are saved.
        ProcessLost: a RunError: of several processes one has died.
        Stopped: `stop` was set; the state is saved.
        KeyboardInterrupt: after Ctrl-C; the state is saved.
        Exception: any error of a callback or of an iterable, unchanged; the state is saved.
    """
    stop = stop or StopRequest()
    stop.armed = False
    passed = {"data": data, "loss": loss, "optimizer": optimizer, "callbacks": callbacks or None}
    if isinstance(config, Job) and (names := [name for name, value in passed.items() if value is not None]):
        raise ValueError(f"give {', '.join(names)} to plan, which has made the job, or a TrainConfig to fit")
    known = config.config if isinstance(config, Job) else applicable(config, loss=loss, optimizer=optimizer)
    options = known if isinstance(config, Job) else options_of_run(known)
    with usual_settings(x64=options.dtype == "float64"), interrupt_after_saving(stop):
        if isinstance(config, Job):
            job = config
        else:
            job = plan(options, data=data, loss=loss, optimizer=optimizer, callbacks=callbacks)
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
    finish, stopped_by = finish_of(job.run), ""
    saved = run_folder.checkpoint_steps(job.run)
    if finish is not None and finish.is_of(job):
        broken, stopped_by = ", ".join(broken_results(job, finish.steps)), finish.stopped_by
        if not broken:
            terminal.say(f"{job.run} is finished: {finish.told(job)}; its results are in {SUMMARY}")
            if not has_its_metrics(job.run, read_summary(job.run)):
                terminal.say(f"{METRICS} is missing, or not what was written; no other file has its entries")
            variables = jax.tree.map(jnp.asarray, load_weights(job.eval_model, job.run / FILES["last"]))
            return FitResult(job.run, sealed(run_folder.read_json(job.run / SUMMARY)), job.eval_model, variables)
        if not saved:
            raise RunError(f"{job.run} is finished, but has no checkpoint to write {broken} from, missing or damaged")
        terminal.say(f"{job.run} is finished, but these are missing or damaged, and written anew: {broken}")
    elif finish is not None and not saved:
        raise RunError(f"{job.run} is finished, after {finish.steps} steps, but has no checkpoint to go on from")
    missing, state = max(KEPT + 2 - len(saved), 1), state_by_shape(job)
    needed = missing * checkpoint_size(state) + results_size(job, state)
    check_space(job.run, needed, f"{missing} checkpoint{'s' * (missing > 1)} and the results")
    with run_folder.locked(job.run) if first else nullcontext():
        return _run(job, terminal, stop, stopped_by)


def _run(job: Job, terminal: Terminal, stop: StopRequest, stopped_by: str) -> FitResult:
    start = time.perf_counter()
    introduce(job, terminal)
    if jax.process_index() == 0:
        run_folder.write_config(job.run, job.config, job.dataset, job.mark, job.lengths, **facts(job))
    logs, checkpoints = Logs(job), Checkpoints(job.run, job.mark, job.lengths)
    terminal.say("compiling; the first start of a network takes a while, later starts use the cache")
    programs = compile_programs(job)
    compile_seconds = time.perf_counter() - start
    terminal.say(f"compiled in {compile_seconds:.1f} s")

    state, progress = _first_state(job, programs, checkpoints, logs, terminal, stopped_by)
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
    job: Job, programs: Programs, checkpoints: Checkpoints, logs: Logs, terminal: Terminal, stopped_by: str
) -> tuple[TrainState, Progress]:
    """Returns the state of the newest undamaged checkpoint, or the state before the first step.

    `stopped_by` is the callback that stopped a finished run: one that sees checkpoints is not told by the last of them.
    """
    newest = checkpoints.newest(programs.state)
    if newest is not None:
        step, state, progress, damaged = newest
        progress = progress._replace(stopped_by=stopped_by or progress.stopped_by)
        for line in damaged:
            terminal.say(line)
        terminal.say(f"going on after step {step} of {job.total_steps}")
        if jax.process_index() == 0:
            # A run that was killed after its last step repeats the last evaluations.
            over = step == progress.evaluated and job.is_over(step, progress.best_step, progress.stopped_by)
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
    reader, train = train_reader(job), job.dataset.train
    loader = Loader(train, range(1), job.batch_size, job.config.seed, job.devices, reader)
    loader.sampling = job.config.sampling
    rows = loader.rows(0)
    if isinstance(train, BatchedSplit):
        (rows,) = with_images([rows], train.batches())
    rows = jax.tree.map(lambda leaf: leaf[: job.shown // jax.process_count()], rows)
    (rows,) = read_ahead(train, [rows._replace(stop_signal=rows.epochs)], reader)
    if reader:
        reader.close()
    split = on_device(train, job.devices)
    images, targets = jax.device_get(programs.show(state, split, job.devices.put_rows(rows)))
    if jax.process_index() == 0:
        draw_batch(job.run / "batch.png", images, targets, job.dataset.class_names)

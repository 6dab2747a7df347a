"""A learning-rate range test: steps with a learning rate that rises from step to step, their losses, and a picture.

Smith, Cyclical learning rates for training neural networks, WACV 2017 (arXiv:1506.01186), section 3.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common_flax.backend import usual_settings
from common_flax.checks import check_positive
from common_flax.files import make_folder
from training_flax.config.config import TrainConfig
from training_flax.config.run_config import is_run
from training_flax.data.loader import Loader
from training_flax.fit import with_weights
from training_flax.learn.evaluation import on_device
from training_flax.learn.state import TrainState, run_keys
from training_flax.plots.rates import draw_rates
from training_flax.run.folder import run_path, write_json, written_to
from training_flax.run.job import Job
from training_flax.run.loop import train_reader
from training_flax.run.plan import plan
from training_flax.run.programs import lower_train_step, make_start, placed_state
from training_flax.runtime.compilation import compile_together, compiler_options
from training_flax.runtime.terminal import Terminal, progress_bar

STEPS = 100
LOW, HIGH = 1e-6, 10.0
SMOOTHING = 0.9  # share of the average before in the smoothed loss
WORSE = 4.0  # times the lowest smoothed loss, at which the test ends, as in fastai
RULE = "a tenth of the rate at which the smoothed loss is lowest"  # fastai's `minimum`
FILES = ("lr_range.json", "lr_range.png")


@dataclass(frozen=True)
class RateRange:
    """The result of a range test.

    Attributes:
        rates: the learning rate of each step that was taken.
        losses: the loss of each step's batch, before the step; infinite or NaN at the end of a test that blew up.
        smoothed: an exponential average of the losses without the bias of its start.
        suggestion: a value for the option `lr`, by `RULE`; None if the loss never fell.
        folder: the folder of lr_range.json and lr_range.png.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    folder: Path


def lr_range(config: TrainConfig, *, low: float = LOW, high: float = HIGH, quiet: bool = False) -> RateRange:
    """Takes steps at rising learning rates, from `low` to `high` by equal factors, and suggests a learning rate.

    The network, data, optimizer and augmentation are those of a run with this config; its schedule is left out. There
    are `config.steps` steps, or a hundred. The test ends early where the smoothed loss is four times its lowest, or not
    finite. It writes lr_range.json and lr_range.png to `config.out`, or a new folder under runs/, and nothing else.

    Raises:
        ValueError: the errors of `plan`; `config.out` holds a run; `low` and `high` are not positive and rising; or
            several processes train together.
    """
    if not 0 < low < high < inf:
        raise ValueError(f"low and high must be positive, finite and rising; given {low} and {high}")
    if jax.process_count() > 1:
        raise ValueError(f"a range test runs in one process; given {jax.process_count()}")
    if config.out is not None and is_run(config.out):
        raise ValueError(f"out {str(config.out)!r} holds a run; name another folder for the range test")
    check_positive("steps", steps := STEPS if config.steps is None else config.steps)
    with usual_settings(x64=config.dtype == "float64"):
        job = plan(replace(config, out=None))
        folder = Path(config.out or f"{run_path(job.config, job.dataset)}-lr-range")
        rates = low * (high / low) ** (np.arange(steps) / max(steps - 1, 1))
        return _test(job, rates, folder, Terminal(quiet))


def _test(job: Job, rates: np.ndarray, folder: Path, terminal: Terminal) -> RateRange:
    config, steps = job.config, len(rates)
    about = f"{config.arch} on {config.data}, {config.optimizer}"
    terminal.say(
        f"range test of {about}: {steps} steps of {job.batch_size} images, rates {rates[0]:g} to {rates[-1]:g}"
    )
    losses, smoothed = _losses(job, rates, terminal)
    taken = rates[: len(losses)].tolist()
    peak = suggested(taken, smoothed)
    scaled = config.batch_size / 256 if config.lr_scaling == "linear" else 1.0
    suggestion = None if peak is None else peak / scaled
    result = RateRange(tuple(taken), tuple(losses), tuple(smoothed), suggestion, folder)
    with written_to(folder):
        make_folder(folder)
        numbers = {
            name: [value if isfinite(value) else None for value in getattr(result, name)]
            for name in ("rates", "losses", "smoothed")
        }
        options = {name: getattr(config, name) for name in ("arch", "data", "optimizer", "batch_size", "seed")}
        write_json(folder / FILES[0], options | {"suggested_lr": suggestion, "rule": RULE} | numbers)
        draw_rates(folder / FILES[1], taken, losses, smoothed, peak, about)
    if len(losses) < steps:
        why = f"over {WORSE:g} times its lowest" if isfinite(losses[-1]) else "not finite"
        terminal.say(f"ended after {len(losses)} steps, at a rate of {taken[-1]:.2g}, where the loss was {why}")
    if suggestion is None:
        terminal.say("no rate is suggested: the loss never fell; try more --steps")
    else:
        terminal.say(f"suggested: --lr {suggestion:.2g}, {RULE}" + (" (--lr-scaling linear)" if scaled != 1 else ""))
    terminal.say(f"{' and '.join(FILES)} are in {folder}")
    return result


def _losses(job: Job, rates: np.ndarray, terminal: Terminal) -> tuple[list[float], list[float]]:
    """Takes the steps; returns the loss of each, and the smoothed losses."""
    state, step = _start(job, rates)
    losses: list[float] = []
    smoothed: list[float] = []
    average, reader = 0.0, train_reader(job)
    loader = Loader(job.dataset.train, range(len(rates)), job.batch_size, job.config.seed, job.devices, reader)
    loader.sampling = job.config.sampling
    split = on_device(job.dataset.train, job.devices)
    try:
        with progress_bar("range test", len(rates) * job.batch_size, shown=not terminal.quiet) as bar:
            for batch in loader:
                state, (metrics, _) = step(state, split, batch)
                losses.append(float(metrics.loss))
                average = SMOOTHING * average + (1 - SMOOTHING) * losses[-1]
                smoothed.append(average / (1 - SMOOTHING ** len(losses)))
                bar.update(job.batch_size)
                # A step that is not finite is skipped, and so would be all after it.
                if metrics.skipped_in_row or not smoothed[-1] <= WORSE * min(smoothed):
                    break
    finally:
        if reader:
            reader.close()
    return losses, smoothed


def _start(job: Job, rates: np.ndarray) -> tuple[TrainState, Any]:
    """Compiles the step with these rates; returns the state before it, and the step."""
    params_key, run_key = run_keys(jax.random.key(job.config.seed))
    placed = placed_state(job)
    sharding = jax.tree.map(lambda leaf: leaf.sharding, placed)
    variables = {"params": placed.params, "batch_stats": placed.batch_stats}

    def rate(count: jax.Array) -> jax.Array:
        return jnp.asarray(rates)[jnp.minimum(count, len(rates) - 1)]

    start = jax.jit(make_start(job), out_shardings=sharding, donate_argnums=0)
    lowered = [lower_train_step(job, rate), start.lower(variables, key=run_key)]
    options = compiler_options(remat=getattr(job.model, "remat", False))
    step, begin = (program.result() for program in compile_together(lowered, options))
    image = jax.ShapeDtypeStruct((1, *job.dataset.image_shape), job.image_dtype)
    drawn = job.arranged(job.model.init(params_key, image, train=False))
    state: TrainState = begin(job.devices.replicate(drawn), key=run_key)
    return (state if job.config.weights is None else with_weights(job, state)), step


def suggested(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """Returns a learning rate by `RULE`; None if the first smoothed loss is the lowest."""
    finite = [value if isfinite(value) else inf for value in smoothed]
    lowest = int(np.argmin(finite))
    return rates[lowest] / 10 if lowest else None

"""What the trainer costs beside its bare step: `python -m benchmarks.overhead`.

The same compiled step on the same data, by the whole loop (loader, metrics, progress, logs) and called by itself, in
turn, in one process. Prints a JSON line a round and the medians.
"""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro

from training_flax import StopRequest, TrainConfig, keep_memory, plan
from training_flax.data.loader import Loader
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.run.logs import Logs
from training_flax.run.loop import Loop
from training_flax.run.programs import compile_programs
from training_flax.runtime.terminal import Terminal


@dataclass(frozen=True)
class Options:
    """What is measured."""

    arch: str = "resnet20"
    data: str = "fake:32x32x3:10:10000"
    batch_size: int = 64
    steps: int = 60
    """Steps in each round, by either side."""
    rounds: int = 5


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        total = options.steps * options.rounds
        config = TrainConfig(options.arch, options.data, steps=total, batch_size=options.batch_size)
        job = plan(replace(config, out=Path(folder) / "run"))
        job.run.mkdir()
        programs = compile_programs(job)
        checkpoints = Checkpoints(job.run)
        loop = Loop(
            job, programs, programs.init(), Progress(), checkpoints, Logs(job), Terminal(quiet=True), StopRequest()
        )
        batch = next(iter(Loader(job.dataset.train, range(1), job.batch_size, 0, job.devices)))
        rates: dict[str, list[float]] = {"trainer": [], "bare step": []}
        for number in range(options.rounds):
            start = time.perf_counter()
            loop.take_steps(1, range(number * options.steps, (number + 1) * options.steps))
            jax.block_until_ready(loop.state)
            rates["trainer"].append(options.steps * job.batch_size / (time.perf_counter() - start))
            state = loop.state
            start = time.perf_counter()
            for _ in range(options.steps):
                state, _ = programs.train_step(state, loop.train_part, batch)
            jax.block_until_ready(state)
            rates["bare step"].append(options.steps * job.batch_size / (time.perf_counter() - start))
            loop.state = state
            print(
                json.dumps({"round": number, **{name: round(rate[-1], 1) for name, rate in rates.items()}}), flush=True
            )
        checkpoints.close()
    medians = {name: float(np.median(rate)) for name, rate in rates.items()}
    ratios = np.divide(rates["trainer"], rates["bare step"])
    print(
        json.dumps(
            {
                **vars(options),
                **{f"{name}, images/s": round(rate, 1) for name, rate in medians.items()},
                "ratio": round(float(np.median(ratios)), 4),
                "spread of the ratio": [round(float(ratios.min()), 4), round(float(ratios.max()), 4)],
            }
        )
    )


if __name__ == "__main__":
    keep_memory()
    main(tyro.cli(Options))

"""Cost of the training loop beside its bare step: `python -m benchmarks.overhead`.

The same compiled step runs on the same data in the whole loop (loader, metrics, progress, logs) and by itself, in turn,
in one process. Prints a JSON line for each round, and one with the medians.
"""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from benchmarks.command_line import compared, run_benchmark
from training_flax import StopRequest, TrainConfig, keep_memory, plan
from training_flax.data.loader import Loader
from training_flax.run.checkpoints import Checkpoints, Progress
from training_flax.run.logs import Logs
from training_flax.run.loop import Loop
from training_flax.run.programs import compile_programs
from training_flax.runtime.terminal import Terminal


@dataclass(frozen=True)
class Options:
    """Compares the speed of the training loop with that of its bare step."""

    arch: str = "resnet20"
    batch_size: int = 64
    data: str = "fake:32x32x3:10:10000"
    steps: int = 60
    """Steps of each side in a round."""
    rounds: int = 5


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        total = options.steps * options.rounds
        config = TrainConfig(options.arch, options.data, steps=total, batch_size=options.batch_size)
        job = plan(replace(config, out=Path(folder) / "run"))
        job.run.mkdir()
        programs = compile_programs(job)
        checkpoints = Checkpoints(job.run, job.mark, job.lengths)
        loop = Loop(
            job, programs, programs.init(), Progress(), checkpoints, Logs(job), Terminal(quiet=True), StopRequest()
        )
        batch = next(iter(Loader(job.dataset.train, range(1), job.batch_size, 0, job.devices)))
        speeds: dict[str, list[float]] = {"trainer": [], "bare step": []}
        images = options.steps * job.batch_size
        for number in range(options.rounds):
            start = time.perf_counter()
            loop.take_steps(1, range(number * options.steps, (number + 1) * options.steps))
            jax.block_until_ready(loop.state)
            speeds["trainer"].append(images / (time.perf_counter() - start))
            state = loop.state
            start = time.perf_counter()
            for _ in range(options.steps):
                state, _ = programs.train_step(state, loop.train_split, batch)
            jax.block_until_ready(state)
            speeds["bare step"].append(images / (time.perf_counter() - start))
            loop.state = state
            line = {"round": number, **{side: round(values[-1], 1) for side, values in speeds.items()}}
            print(json.dumps(line), flush=True)
        checkpoints.close()
    print(json.dumps({**vars(options), **compared(speeds)}))


if __name__ == "__main__":
    keep_memory()
    run_benchmark("benchmarks.overhead", main, Options)

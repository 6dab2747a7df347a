"""One short run, trained again and again by the front door, with programs that are compiled once."""

import faulthandler
import gc
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from matplotlib.figure import Figure

from common_flax.files import save_figure
from layers_flax import architecture
from resnet_flax import BasicBlock, ResNet, ResNetOptions
from training_flax import mistakes, results as results_of_runs, train_command
from training_flax.run import logs, loop

OPTIONS = ["--arch", "resnet8", "--width", "2", "--data", "fake:8x8x3:4:64", "--batch-size", "16"]
OPTIONS += ["--ema", "0.5"]
STEPS = 12
SECONDS = 120  # a run that takes longer hangs
WEIGHTS = ("model.safetensors", "model_ema.safetensors")
UNFINISHED = ("unfinished", "tmp")  # parts of names that nothing in a run's folder keeps
TIMES = ("images_per_second", "data_wait", "check_sum")  # entries of metrics that differ from run to run


@architecture("Tests", stem_type="cifar", num_classes=10, width=16, shortcut="A")
def resnet8(**options: Unpack[ResNetOptions]) -> ResNet:
    """A network for 32 pixels with a block in each stage."""
    return ResNet((1, 1, 1), BasicBlock, **options)


class Outcome(NamedTuple):
    """The end of a command: its exit code and the lines on both streams."""

    code: int
    out: list[str]
    error: list[str]


def share_programs() -> None:
    """Makes all later runs of this process share the first one's programs, draw tiny pictures, and save every epoch."""
    programs: list[Any] = []
    module = sys.modules["training_flax.fit"]
    compile_programs = module.compile_programs

    def compiled_once(job):
        programs.extend([compile_programs(job)] if not programs else [])
        return programs[0]

    def draw(path, *_):
        save_figure(Figure(figsize=(0.1, 0.1)), path)

    module.compile_programs = compiled_once
    module.draw_batch = results_of_runs.draw_confusion = logs.draw_curves = mistakes.draw_mistakes = draw
    loop.SHARE_OF_CHECKPOINTS = float("inf")


def train(out: Path, *options: str, steps: int = STEPS) -> Outcome:
    """Runs the command that trains in a folder, as often as it is called; catches what it prints, libraries too."""
    words = [*OPTIONS, "--steps", str(steps), *options, "--out", str(out)]
    with ExitStack() as hidden:
        return said_by(lambda: train_command.main(words, hidden=hidden))


def said_by(command) -> Outcome:
    """Calls a function that returns an exit code, and catches what it prints, libraries of C++ too."""
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(stream.fileno()) for stream in streams]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        for stream, file in zip(streams, (out, error), strict=True):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
        try:
            code = command()
        finally:
            for stream in streams:
                stream.flush()
            for stream, descriptor in zip(streams, kept, strict=True):
                stream.flush()
                os.dup2(descriptor, stream.fileno())
                os.close(descriptor)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode(errors="replace").splitlines())
    return Outcome(code, *texts)


@contextmanager
def watched(what: Callable[[], str]) -> Iterator[None]:
    """A context that ends the process, and tells where it hangs, if it takes longer than two minutes."""
    terminal = os.dup(2)  # stderr may lead to a file meanwhile

    def give_up() -> None:
        os.write(terminal, f"hangs: {what()}\n".encode())
        faulthandler.dump_traceback(terminal)
        os._exit(3)

    timer = threading.Timer(SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.close(terminal)


def settle() -> Outcome:
    """Waits for the threads of a run that failed, whose process would have ended with them."""

    def wait() -> int:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        gc.collect()  # reports the errors of futures that nobody asked for
        return 0

    return said_by(wait)


def results(run: Path, *, metrics: bool = True) -> tuple[Any, ...]:
    """All of a finished run that must not depend on what happened to it: weights, accuracy, and entries of metrics."""
    weights = [(run / name).read_bytes() for name in WEIGHTS]
    summary = json.loads((run / "summary.json").read_text())
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines() if metrics else [])
    entries = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return *weights, summary["test_accuracy"], summary["test_loss"], entries


def left_behind(run: Path) -> list[str]:
    """The files below a folder whose writing has not ended."""
    names = [str(path.relative_to(run)) for path in run.rglob("*")]
    return [name for name in names if any(part in Path(name).name for part in UNFINISHED)]

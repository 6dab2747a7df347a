"""Runs that are told to stop in an evaluation, between images, by a notebook's button, or after the last step."""

import gc
import json
import logging
import random
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest
from orbax.checkpoint._src.serialization import type_handlers
from signal_sweep import Sweep

from common_flax.signals import handled
from training_flax import Stopped, StopRequest, TrainConfig, fit, train_command
from training_flax.data.loader import wait_for
from training_flax.run.loop import Loop
from training_flax.run.programs import compile_programs
from training_flax.runtime.signals import STOP, StopAsked
from training_flax.runtime.terminal import orbax_hidden

# Four steps of an epoch, each of which looks once for a request to stop; 16 batches of an evaluation do too.
OPTIONS = dict(arch="resnet20", data="fake:8x8x3:4:64", width=2, steps=8, batch_size=16, ema=0.9)
FILES = ("model.safetensors", "model_ema.safetensors")


def weights(run):
    return [(run / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Has all runs of this file share their programs, which take most of a short run's time."""
    programs = []

    def compile_once(job):
        if not programs:
            programs.append(compile_programs(job))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["training_flax.fit"], "compile_programs", compile_once)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trains without a stop; returns the run's folder."""
    return fit(TrainConfig(**OPTIONS, out=tmp_path_factory.mktemp("whole") / "run"), quiet=True).run


class AtLook(StopRequest):
    """A request that does something at the n-th look at it."""

    def __init__(self, number, act):
        self.looks, self.number, self.act, self.asked = 0, number, act, 0
        super().__init__()

    @property
    def stop_signal(self):
        if self.armed:
            self.looks += 1
            if self.looks == self.number:
                self.act()
        return self.asked

    @stop_signal.setter
    def stop_signal(self, value):
        self.asked = value


def stop_at(number):
    request = AtLook(number, lambda: setattr(request, "asked", STOP + signal.SIGTERM))
    return request


# The first and the second evaluation begin after 4 steps, and have two networks with 16 batches each.
@pytest.mark.slow
@pytest.mark.parametrize("look", [5, 20, 21, 41, 72])
def test_an_evaluation_stops_between_its_batches_and_is_repeated(look, whole, tmp_path):
    config, request = TrainConfig(**OPTIONS, out=tmp_path / "run"), stop_at(look)
    step = 4 if look < 37 else 8
    with pytest.raises(Stopped, match=f"after step {step}, which is saved"):
        fit(config, quiet=True, stop=request)
    assert request.looks <= look + 2  # that one, and the one that stops
    run = fit(config, quiet=True).run
    assert weights(run) == weights(whole)
    splits = [
        [(line["split"], line["step"]) for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]
        for folder in (run, whole)
    ]
    assert [each for each in splits[0] if each[0] != "train"] == [each for each in splits[1] if each[0] != "train"]


@pytest.mark.slow
@pytest.mark.parametrize("look", [3, 10, 39, 50])
def test_the_button_of_a_notebook_saves_and_then_interrupts(look, whole, tmp_path):
    config = TrainConfig(**OPTIONS, out=tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"stopped by SIGINT after step \d, which is saved"):
        fit(config, quiet=True, stop=AtLook(look, lambda: signal.raise_signal(signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) == before
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    assert weights(fit(config, quiet=True).run) == weights(whole)


@pytest.mark.slow
def test_a_second_push_of_the_button_interrupts_at_once_and_leaves_whole_checkpoints(whole, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    config = TrainConfig(**OPTIONS, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(config, quiet=True, stop=AtLook(38, twice))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] in ([], ["4"])
    assert weights(fit(config, quiet=True).run) == weights(whole)


@pytest.mark.slow
def test_an_interrupt_while_results_are_written_comes_after_them(whole, tmp_path, monkeypatch):
    module = sys.modules["training_flax.fit"]
    write = module.write_results

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(module, "write_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(TrainConfig(**OPTIONS, out=tmp_path / "run"), quiet=True)
    assert (tmp_path / "run" / "summary.json").exists()
    assert weights(tmp_path / "run") == weights(whole)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes the function that runs the command line, with options added."""
    for name in ("keep_compiled_programs", "keep_memory"):
        monkeypatch.setattr(train_command, name, lambda: None)
    given = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    with handled(signal.SIG_DFL, signal.SIGHUP):  # nohup may have started pytest
        yield lambda *more: train_command.main([*given, "--out", str(tmp_path / "run"), *more])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_after_the_last_step_does_not_keep_a_run_from_its_results(
    number, command, monkeypatch, tmp_path, capfd
):
    module = sys.modules["training_flax.fit"]
    write = module.write_results

    def interrupted(*arguments):
        signal.raise_signal(number)
        return write(*arguments)

    monkeypatch.setattr(module, "write_results", interrupted)
    assert command() == 0
    printed, said = capfd.readouterr()
    assert said == f"{signal.Signals(number).name} came after the last step; the run is finished\n"
    assert "weights, curves and confusion matrix are in" in printed
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_command_that_is_stopped_says_where_it_goes_on(command, monkeypatch, tmp_path, capfd):
    look, looks = Loop.check_stop, []

    def stop_in_the_evaluation(self):
        looks.append(self.step)
        if len(looks) == 3:
            signal.raise_signal(signal.SIGHUP)
        look(self)

    monkeypatch.setattr(Loop, "check_stop", stop_in_the_evaluation)
    assert command() == 129
    assert capfd.readouterr().err == f"train.py: stopped by SIGHUP after step 4, which is saved in {tmp_path / 'run'}\n"
    assert looks == [4, 4, 4]


def test_waiting_for_an_image_that_never_comes_ends_when_asked():
    looks = []

    def check():
        looks.append(time.monotonic())
        if len(looks) == 3:
            raise StopAsked(STOP + signal.SIGTERM)

    with pytest.raises(StopAsked):
        wait_for(Future(), check, seconds=0.01)
    ready = Future()
    ready.set_result(np.zeros(1))
    assert wait_for(ready, check).shape == (1,)
    assert len(looks) == 3


@pytest.mark.slow
def test_signals_at_six_moments_of_a_run(tmp_path):
    """Each ends in one line and a right exit code, and the same command then ends in the same weights."""
    sweep, rng = Sweep(tmp_path), random.Random(0)
    for number in (0, 2, 4, 6, 8, 10):
        trial = sweep.draw(number, rng)
        assert sweep.check(trial) == [], trial


def failing_thread(name):
    """Runs a thread that fails in a module called `name`."""
    space = {"__name__": name}
    exec("def fail():\n    raise OSError('told by a thread')", space)
    thread = threading.Thread(target=space["fail"])
    thread.start()
    thread.join()


class Collected:
    """An object that fails when it is collected, in a module called `name`."""

    def __init__(self, name):
        self.space = {"__name__": name}
        exec("def fail():\n    raise OSError('told by an object')", self.space)

    def __del__(self):
        self.space["fail"]()


def tell(name):
    """Fails in the ways in which errors of a library's threads are told."""
    logging.getLogger("absl" if name == "orbax.x" else name).error("told by a logger")
    failing_thread(name)
    Collected(name)
    message = "coroutine 'write' was never awaited" if name == "orbax.x" else "told by a warning"
    warnings.warn(message, RuntimeWarning, stacklevel=1)


@pytest.fixture
def told(monkeypatch, caplog):
    """Collects what is told, in place of pytest."""
    lines = []
    monkeypatch.setattr(threading, "excepthook", lambda args: lines.append(str(args.exc_value)))
    monkeypatch.setattr(sys, "unraisablehook", lambda args: lines.append(str(args.exc_value)))
    return lambda: [*lines, *(record.getMessage() for record in caplog.records)]


def test_errors_of_orbax_are_hidden(told):
    hooks = threading.excepthook, sys.unraisablehook
    with orbax_hidden():
        tell("orbax.x")
    assert told() == []
    assert hooks == (threading.excepthook, sys.unraisablehook)
    logging.getLogger("absl").error("told by a logger")
    assert told() == ["told by a logger"]


def test_errors_of_others_are_shown(told):
    with orbax_hidden(), pytest.warns(RuntimeWarning, match="told by a warning"):
        tell("wandb")
    assert told() == ["told by a thread", "told by an object", "told by a logger"]


def full_disk(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_the_terminal_shows_one_line_of_an_error(command, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(type_handlers.ts, "open", full_disk)
    before = set(threading.enumerate())
    with orbax_hidden():
        assert command() == 2
        said = capfd.readouterr().err
        # A process ends with the line. Here threads that fail after it would fail in another test.
        end = time.monotonic() + 60
        while {each for each in threading.enumerate() if each.name != "tqdm_monitor"} - before:
            assert time.monotonic() < end
            time.sleep(0.05)
        gc.collect()
    left = "OSError: [Errno 28] No space left on device; no checkpoint is left"
    assert said == f"train.py: error: a checkpoint could not be written to {tmp_path / 'run'}: {left}\n"


@pytest.mark.slow
@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_hides_nothing(verbose, command, monkeypatch):
    hidden = []

    @contextmanager
    def watched():
        hidden.append(True)
        yield

    monkeypatch.setattr(train_command, "orbax_hidden", watched)
    assert command(*(["--verbose"] if verbose else [])) == 0
    assert hidden == [True] * (not verbose)

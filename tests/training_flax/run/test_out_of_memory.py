"""Memory that runs out in a run: one line, and the same weights when the command is given again."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training_flax import RunError, TrainConfig, fit
from training_flax.run import checkpoints, loop
from training_flax.run.folder import checkpoint_steps
from training_flax.run.programs import compile_programs

FIT = sys.modules["training_flax.fit"]
STEPS, EPOCH = 8, 2


def config(out):
    return TrainConfig(
        "resnet20",
        width=4,
        data="fake:8x8x3:4:32",
        batch_size=16,
        steps=STEPS,
        schedule="constant",
        warmup=0,
        out=out,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unbroken run, and its programs."""
    programs = []

    def compiled(job):
        programs.append(compile_programs(job))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIT, "compile_programs", compiled)
        return fit(config(tmp_path_factory.mktemp("whole") / "run"), quiet=True), programs[0]


def of_xla(*_):
    """Asks XLA for more memory than any machine has."""
    return jnp.zeros(2**44).block_until_ready()


def of_numpy(*_):
    np.zeros(2**50)


def of_threads(*_):
    raise RuntimeError("can't start new thread")


def of_cpp(*_):
    raise RuntimeError("std::bad_alloc")


def after(calls, fail, function):
    """Makes a function that fails after a number of calls."""
    left = [calls]

    def called(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            with jax.transfer_guard("allow"):
                fail()
        return function(*args, **options)

    return called


PLACES = {
    "compile": of_cpp,
    "init": of_xla,
    "train_step": of_xla,
    "eval_step": of_numpy,
    "save": of_threads,
    "results": of_numpy,
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "fail"), PLACES.items(), ids=PLACES)
def test_memory_that_runs_out_costs_a_line_and_the_work_since_the_last_checkpoint(place, fail, whole, tmp_path):
    result, programs = whole
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIT, "compile_programs", lambda job: programs)
        patch.setattr(loop, "SHARE_OF_CHECKPOINTS", float("inf"))  # a checkpoint at each epoch
        fit_it = lambda: fit(config(run), quiet=True)  # noqa: E731
        with pytest.MonkeyPatch.context() as broken:
            if place == "compile":
                broken.setattr(FIT, "compile_programs", fail)
            elif place == "save":
                broken.setattr(checkpoints, "_as_tree", after(2, fail, checkpoints._as_tree))
            elif place == "results":
                broken.setattr(FIT, "write_results", fail)
            else:
                calls = {"init": 0, "train_step": 5, "eval_step": 40}[place]
                failing = programs._replace(**{place: after(calls, fail, getattr(programs, place))})
                broken.setattr(FIT, "compile_programs", lambda job: failing)
            with pytest.raises(RunError, match=r"memory ran out: .*16.*--batch-size") as error:
                fit_it()
        assert "\n" not in str(error.value)
        steps = checkpoint_steps(run)
        assert bool(steps) == (place not in ("compile", "init"))
        again = fit_it()
    jax.tree.map(np.testing.assert_array_equal, again.variables, result.variables)

"""Fixtures for all tests."""

import gc
import os
from pathlib import Path

import jax
import jax._src.compiler
import platformdirs
import pytest

from training_flax.runtime.compilation import is_known

# Tests compile the same programs time and again: they are kept between runs.
jax.config.update("jax_compilation_cache_dir", str(platformdirs.user_cache_path("resnet-densenet-flax") / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)

# Tracing makes millions of objects and leaves few cycles: with Python's own thresholds a fourth of a test's time goes
# into looking for them.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

usual_options = jax._src.compiler.get_compile_options
usual_flags = os.environ.get("XLA_FLAGS", "")


def compile_by(llvm, module):
    """How much of LLVM compiles the programs of tests: level 0, 1, or 3, by which users' programs are compiled.

    Each level takes half of the time of the next to compile. What LLVM computes at 0, float64 convolutions above all,
    takes seven times as long to run as at 3. Below 3 XLA fuses operations without MLIR, which would take as much time
    again; results are the same up to rounding. Files that ask for the same bits of different programs say
    FUSED_BY_MLIR.
    """
    # Of the processes that tests start too, which know no level between 0 and 3; their other options are in XLA_FLAGS.
    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    os.environ[name] = str(int(llvm == 0))
    jax.config.update(name.lower(), llvm == 0)
    options = {"xla_backend_optimization_level": 1} if llvm == 1 else {}
    # One module for LLVM in place of 32: a train step compiles in three fourths of the time on two busy cores.
    options |= (
        {"xla_cpu_parallel_codegen_split_count": 1} if is_known("xla_cpu_parallel_codegen_split_count", 1) else {}
    )
    if llvm < 3 and not getattr(module, "FUSED_BY_MLIR", False) and is_known("xla_cpu_use_fusion_emitters", False):
        options["xla_cpu_use_fusion_emitters"] = False
    # XLA has read this process's own by now.
    flags = [f"--{name}={str(value).lower()}" for name, value in options.items() if name.startswith("xla_cpu_")]
    os.environ["XLA_FLAGS"] = " ".join([usual_flags, *flags]).strip()

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        return usual_options(*args, env_options_overrides=options | dict(env_options_overrides or {}), **kwargs)

    # JAX has options for one program, and no setting for all; this is where it makes each program's.
    jax._src.compiler.get_compile_options = get_compile_options


class _TellAtOnce:
    """Names what fails when it does, for a run that is cut off before its summary."""

    def __init__(self, terminal):
        self.terminal = terminal

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.terminal.ensure_newline()
            why = crash.message[:400] if crash else ""
            self.terminal.write_line(f"{report.nodeid}, {report.when}: {why}", red=True)


def pytest_sessionstart(session):
    """Where the results come together, which with pytest-xdist is not where the tests run."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_TellAtOnce(terminal))


@pytest.hookimpl(tryfirst=True)  # before -m takes tests out
def pytest_collection_modifyitems(items):
    """Marks what was measured to be slow, and puts slow tests first.

    At the end workers take quick tests from each other, and none waits for a long one.
    """
    measured = set((Path(__file__).parent / "slow.txt").read_text("utf-8").splitlines())
    for item in items:
        if item.nodeid in measured:
            item.add_marker("slow")
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True, scope="module")
def compiler(request):
    """Most programs of tests run once, and LLVM took most of the time; files whose programs run for longer say so."""
    compile_by(getattr(request.module, "LLVM", 0), request.module)


@pytest.fixture
def llvm(compiler, request):
    """A switch that sets LLVM's level for one test."""
    yield lambda level: compile_by(level, request.module)
    compile_by(getattr(request.module, "LLVM", 0), request.module)


@pytest.fixture
def some_of_llvm(llvm):
    llvm(1)


@pytest.fixture
def all_of_llvm(llvm):
    llvm(3)


@pytest.fixture(autouse=True, scope="module")
def let_programs_go():
    """What a file has compiled leaves memory with its last test; kept, a worker grows to 6 GB."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 for the time of a test: laws hold to its rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def stock_convolution(monkeypatch):
    """A switch that has all layers use the plain `lax.conv_general_dilated`, whatever the shape."""

    def conv2d(x, kernel, *, stride=1, padding=None, groups=1):
        pads = [((size - 1) // 2,) * 2 if padding is None else (padding, padding) for size in kernel.shape[:2]]
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    return lambda: monkeypatch.setattr("layers_flax.conv.conv.conv2d", conv2d)

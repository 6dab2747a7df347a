"""Fixtures for all tests."""

import os

import jax
import jax._src.compiler
import platformdirs
import pytest

# Tests compile the same programs time and again: they are kept between runs.
jax.config.update("jax_compilation_cache_dir", str(platformdirs.user_cache_path("resnet-densenet-flax") / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


# Of networks and layers there are the most programs. By MLIR, as is usual, fused operations take half of the time of
# compiling; without, results are the same up to rounding. Where other files ask for the same bits, it is with MLIR.
FOLDERS_WITHOUT_MLIR = ("layers_flax", "resnet_flax", "densenet_flax")
WITHOUT_MLIR = {"xla_cpu_use_fusion_emitters": False}
usual_options = jax._src.compiler.get_compile_options


def options_without_mlir(*args, env_options_overrides=None, **kwargs):
    return usual_options(*args, env_options_overrides=WITHOUT_MLIR | dict(env_options_overrides or {}), **kwargs)


def compile_quickly(quick, folder):
    """Has programs, those of the processes that tests start too, compiled by XLA's own passes and few of LLVM's."""
    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    os.environ[name] = str(int(quick))
    jax.config.update(name.lower(), quick)
    # JAX has options for one program, and no setting for all; this is where it makes each program's.
    without = quick and folder in FOLDERS_WITHOUT_MLIR
    jax._src.compiler.get_compile_options = options_without_mlir if without else usual_options


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


@pytest.fixture(autouse=True, scope="module")
def compiler(request):
    """Most programs of tests run once, and LLVM took most of the time; files that train for longer say so."""
    compile_quickly(not getattr(request.module, "FULL_COMPILER", False), request.path.parent.name)


@pytest.fixture
def full_compiler(compiler, request):
    """All of LLVM for one test of a file: what trains for long, or says how exactly the same programs are."""
    compile_quickly(False, request.path.parent.name)
    yield
    compile_quickly(not getattr(request.module, "FULL_COMPILER", False), request.path.parent.name)


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

    return lambda: monkeypatch.setattr("layers_flax.conv.conv2d", conv2d)

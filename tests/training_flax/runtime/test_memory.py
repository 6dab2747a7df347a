import platform
import subprocess
import sys

import pytest

from training_flax import keep_memory, trim_memory

MEASURE = """
import resource
import sys
from pathlib import Path
from training_flax import keep_memory, trim_memory

kept = keep_memory() if sys.argv[1] == "kept" else False
import jax
import jax.numpy as jnp

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

double = jax.jit(lambda x: 2 * x)
x = jnp.ones(1 << 24)  # 64 MB, as is what comes out
double(x).block_until_ready()
at_first = resident()
for number in range(1, 101):
    double(x).block_until_ready()
    if number & (number - 1) == 0:
        trim_memory()
before = page_faults()
for _ in range(5):
    double(x).block_until_ready()
print(kept, page_faults() - before, resident() - at_first)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept where malloc is glibc's")
def test_memory_that_is_kept_is_not_mapped_anew_and_does_not_grow():
    def measure(how):
        command = [sys.executable, "-c", MEASURE, how]
        kept, faults, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return kept == "True", int(faults), int(grown)

    kept, few, grown = measure("kept")
    left, many, _ = measure("left")
    assert kept and not left
    # 5 · 64 MB are at least 160 pages, even of Linux' largest size of 2 MB.
    assert few < 80 and many > 2 * few
    assert grown <= 4 * 64  # a few, not one for each of a hundred runs


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr("training_flax.runtime.memory.platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("training_flax.runtime.memory.ctypes.CDLL", lambda name: pytest.fail("asked for the C library"))
    monkeypatch.setattr("training_flax.runtime.memory.jax.config.update", lambda *args: pytest.fail(f"set {args}"))
    assert keep_memory() is False
    trim_memory()

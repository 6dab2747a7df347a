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
faults = []
for _ in range(10):
    before = page_faults()
    double(x).block_until_ready()
    faults.append(page_faults() - before)
print(kept, resident() - at_first, *faults)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept where malloc is glibc's")
def test_memory_that_is_kept_is_not_mapped_anew_and_does_not_grow():
    def measure(how):
        command = [sys.executable, "-c", MEASURE, how]
        kept, grown, *faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return kept == "True", int(grown), [int(count) for count in faults]

    kept, grown, few = measure("kept")
    left, _, many = measure("left")
    assert kept and not left
    # 64 MB are at least 32 pages, even of Linux' largest size of 2 MB. An array that small ones have moved touches the
    # pages of its new place once; that may fall into these ten runs.
    assert min(many) >= 32 and sum(count < 16 for count in few) >= 8
    assert grown <= 4 * 64  # a few, not one for each of a hundred runs


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr("training_flax.runtime.memory.platform.libc_ver", lambda: ("", ""))
    monkeypatch.setattr("training_flax.runtime.memory.ctypes.CDLL", lambda name: pytest.fail("asked for the C library"))
    monkeypatch.setattr("training_flax.runtime.memory.jax.config.update", lambda *args: pytest.fail(f"set {args}"))
    assert keep_memory() is False
    trim_memory()

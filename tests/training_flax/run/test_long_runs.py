"""The memory of long runs: steps leave nothing behind."""

import ctypes
import gc

import jax
import pytest

from training_flax import TrainConfig, fit
from training_flax.run.loop import Loop

LLVM = 1
FIRST, LAST = 400, 1400  # steps; the first ones fill caches


class Mallinfo(ctypes.Structure):
    """The result of glibc's `mallinfo2`: sums over all its arenas, in bytes."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def allocated():
    """Bytes that the process has allocated and not freed."""
    try:
        read = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("mallinfo2 is glibc's, from version 2.33")
    read.restype = Mallinfo
    info = read()
    return info.uordblks + info.hblkhd


@pytest.mark.slow
def test_a_thousand_steps_keep_less_than_a_kilobyte_each(tmp_path, monkeypatch):
    """The metrics of steps, the progress bar, logs and JAX's caches do not grow; neither does the number of arrays."""
    seen, read = {}, Loop.read

    def watched(loop, *rest):
        result = read(loop, *rest)
        if loop.step in (FIRST, LAST):
            gc.collect()
            seen[loop.step] = allocated(), len(gc.get_objects()), len(jax.live_arrays())
        return result

    monkeypatch.setattr(Loop, "read", watched)
    small = dict(width=2, data=f"fake:8x8x3:4:{16 * LAST}", batch_size=16, steps=LAST + 100, augment=("none",))
    fit(TrainConfig("resnet20", recipe="he2015-cifar", ema=0.9, out=tmp_path / "run", **small), quiet=True)
    grown = [after - before for before, after in zip(seen[FIRST], seen[LAST], strict=True)]
    assert grown[0] < 1000 * (LAST - FIRST), grown
    assert grown[1] < LAST - FIRST, grown
    assert abs(grown[2]) < 10, grown

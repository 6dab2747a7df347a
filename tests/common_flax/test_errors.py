import errno

import numpy as np
import pytest

from common_flax.command_line import run_command
from common_flax.errors import one_line, out_of_memory

RAN_OUT = [
    MemoryError(),
    MemoryError("Unable to allocate 8.00 PiB"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment: …"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("dictionary changed size during iteration"),
    OSError(errno.ENOSPC, "No space"),
    ValueError("bad_alloc"),
]


@pytest.mark.parametrize("error", RAN_OUT, ids=repr)
def test_memory_that_ran_out_is_one_line(error, capsys):
    def command():
        raise error

    line = out_of_memory(error)
    assert line is not None
    assert line.startswith("memory ran out: ")
    assert "\n" not in line
    assert run_command("train", command) == 2
    assert capsys.readouterr().err == f"train: error: {line}\n"


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not_of_memory(error):
    assert out_of_memory(error) is None


def test_an_error_that_is_not_of_memory_is_raised():
    def command():
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        run_command("train", command)


def test_an_error_without_text_has_its_class():
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(ValueError("two\n  lines")) == "two lines"


def test_numpys_error_is_of_memory():
    with pytest.raises(MemoryError) as error:
        np.zeros(2**50)
    assert out_of_memory(error.value) is not None

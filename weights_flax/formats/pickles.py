"""Reader of pickles that runs no code: a machine with only the opcodes that files of tensors need.

Python's own unpickler calls any function that a file names. Here the caller gives a table of allowed functions, and any
other name in a file is an error.
"""

import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

LIMIT = 2**24  # bytes of a pickle; a network of 1,202 layers needs under one million
MOST_OPCODES = 2_000_000  # reading that many takes a second or two

Name = tuple[str, str]  # module, name
Builder = Callable[..., Any]
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_PUSHED |= {"BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"}
_PASSED_OVER = ("PROTO", "FRAME")
KEYS = str | int  # no tuples: hashing of nested tuples recurses as deep as the file nests them


def read_pickle(stream: BytesIO, builders: Mapping[Name, Builder], persistent: Builder | None = None) -> Any:
    """Reads the pickle at the stream's position, and leaves the stream at the end of the pickle.

    Args:
        stream: the bytes; the caller limits their number to `LIMIT`.
        builders: the names that a pickle may hold, each with the function to call with the pickle's arguments.
        persistent: makes an object from a persistent id.

    Raises:
        ValueError: the pickle is damaged, holds a name without a builder, or uses an opcode that tensors do not need.
    """
    machine = _Machine(builders, persistent)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > MOST_OPCODES:
                raise ValueError(f"its pickle has more than {MOST_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None
    raise ValueError("its pickle ends too early")


class _Machine:
    def __init__(self, builders: Mapping[Name, Builder], persistent: Builder | None):
        self._builders, self._persistent = builders, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Removes and returns the topmost object."""
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def _pop_to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:  # an IndexError at the bottom means a damaged pickle
            place -= 1
            if place < 0:
                raise IndexError
        values = self._stack[place + 1 :]
        del self._stack[place:]
        return values

    def run(self, name: str, argument: Any) -> None:
        """Runs one opcode."""
        stack = self._stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            values = [self.pop() for _ in range(int(name[-1]))]
            stack.append(tuple(values[::-1]))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name == "APPEND":
            value = self.pop()
            _of(list, stack[-1]).append(value)
        elif name in ("APPENDS", "ADDITEMS"):
            values = self._pop_to_mark()
            _of(list, stack[-1]).extend(values)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            _of(dict, stack[-1])[_of(KEYS, key)] = value
        elif name == "SETITEMS":
            values = self._pop_to_mark()
            _of(dict, stack[-1]).update({_of(KEYS, values[i]): values[i + 1] for i in range(0, len(values), 2)})
        elif name == "GLOBAL":
            module, _, what = argument.partition(" ")
            stack.append(self._builder((module, what)))
        elif name == "STACK_GLOBAL":
            what, module = self.pop(), self.pop()
            stack.append(self._builder((module, what)))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, build = self.pop(), self.pop()
            if not isinstance(build, _Named):
                raise ValueError("its pickle calls an object that is not a name")
            stack.append(build.builder(*arguments))
        elif name == "BUILD":
            self.pop()  # attributes of an object, which tensors do not need
        elif name == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(self.pop()))
        elif name not in _PASSED_OVER:
            raise ValueError(f"its pickle has the opcode {name}, which files of tensors do not need")

    def _builder(self, name: Name) -> "_Named":
        if name not in self._builders:
            raise ValueError(f"it names {'.'.join(map(str, name))[:100]!r}, which is neither a tensor nor a container")
        return _Named(self._builders[name], name)


class _Named:
    """A name of the file, on the stack until it is called or stored."""

    def __init__(self, builder: Builder, name: Name):
        self.builder, self.name = builder, name


def name_of(value: Any) -> Name:
    """Returns the name that a pickle stores as an object, such as a type of storage."""
    return _of(_Named, value).name


def _of(kind: Any, value: Any) -> Any:
    """Returns the value. Raises TypeError unless it is of this kind."""
    if not isinstance(value, kind):
        raise TypeError
    return value

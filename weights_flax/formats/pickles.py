"""Reader of pickles that runs no code: a machine with only the opcodes that files of tensors need.

Python's own unpickler calls any function that a file names. Here the caller gives a table of allowed functions, and any
other name in a file is an error.
"""

import pickletools
from collections.abc import Callable, Mapping
from sys import getsizeof
from typing import Any, BinaryIO

LIMIT = 2**29  # bytes of a pickle that are in its file; tensors' names need a million, arrays of NumPy stand in it
LONGEST = 2**27  # bytes of one text or array in it
MOST_BYTES = 2**29  # of all texts and arrays that it makes
MOST_OPCODES = 2_000_000  # reading that many takes a second or two

Name = tuple[str, str]  # module, name
Builder = Callable[..., Any]
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_PUSHED |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "BYTEARRAY8", "LONG4"}
_PASSED_OVER = ("PROTO", "FRAME")
KEYS = str | int  # no tuples: hashing of nested tuples recurses as deep as the file nests them


class Passed:
    """Stands for an object that no tensor needs, such as a path; what a file does with it has no effect."""


class Attributes(dict):
    """The attributes of an object that has nothing else, such as an `argparse.Namespace`."""


def passed(*_: Any) -> Passed:
    """Makes an object that no tensor needs, whatever a file gives for it."""
    return Passed()


# Data that checkpoints keep beside tensors: containers are read as such, anything else is passed over.
DATA: dict[str, str] = {
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "pathlib": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "pathlib._local": "Path PurePath PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "omegaconf.base": "ContainerMetadata Metadata SCMode Box Node Container",
    "omegaconf.nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode PathNode EnumNode BytesNode ValueNode",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "typing": "Any",
}
PLAIN = "int float complex bool str bytes bytearray object range xrange slice frozenset set tuple unicode long type"
DICTS: dict[str, str] = {
    "builtins": "dict",
    "__builtin__": "dict",
    "collections": "OrderedDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning.pytorch.utilities.parsing": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "easydict": "EasyDict",
    "addict.addict": "Dict",
    "yacs.config": "CfgNode",
    "fvcore.common.config": "CfgNode",
    "detectron2.config.config": "CfgNode",
    "mmcv.utils.config": "ConfigDict",
    "mmengine.config.config": "ConfigDict",
}


def data_builders() -> dict[Name, Builder]:
    """Returns the builders of data that checkpoints keep beside their tensors: none of it is made but containers."""
    names = [(module, name) for module, listed in DATA.items() for name in listed.split()]
    names += [(module, name) for module in ("builtins", "__builtin__") for name in PLAIN.split()]
    dicts = [(module, name) for module, listed in DICTS.items() for name in listed.split()]
    return {
        **dict.fromkeys(names, passed),
        **dict.fromkeys(dicts, lambda *_: {}),
        # What a default dict or a counter begins with does not matter: its entries come behind.
        **dict.fromkeys([("collections", "defaultdict"), ("collections", "Counter")], lambda *_: {}),
        **dict.fromkeys([("builtins", "list"), ("__builtin__", "list"), ("collections", "deque")], lambda *_: []),
        **dict.fromkeys([("argparse", "Namespace"), ("types", "SimpleNamespace")], lambda *_: Attributes()),
        ("_codecs", "encode"): _encoder(),
    }


def _encoder() -> Builder:
    """Makes a function that gives the bytes that protocol 2 writes as text of Latin-1; those of one text are one."""
    made: dict[int, tuple[str, bytes]] = {}  # with the texts, whose ids stay theirs as long as they exist

    def encoded(text: Any, codec: Any = "utf-8", *_: Any) -> Any:
        if not isinstance(text, str) or codec != "latin1":
            return Passed()
        if id(text) not in made:
            made[id(text)] = text, text.encode("latin-1")
        return made[id(text)][1]

    return encoded


class _Bounded:
    """A stream for `pickletools` that gives no part longer than `LONGEST`, whatever a few bytes ask for."""

    def __init__(self, stream: BinaryIO):
        self.tell, self.readline, self._stream = stream.tell, stream.readline, stream

    def read(self, size: int = -1, /) -> bytes:
        """Reads bytes; raises ValueError if too many are asked for."""
        if size < 0 or size > LONGEST:
            raise ValueError(f"its pickle has a part of {size:,} bytes, more than {LONGEST:,}")
        return self._stream.read(size)


def read_pickle(stream: BinaryIO, builders: Mapping[Name, Builder], persistent: Builder | None = None) -> Any:
    """Reads the pickle at the stream's position, and leaves the stream at the end of the pickle.

    Args:
        stream: the bytes; the caller limits their number to `LIMIT`, and to those that are in its file.
        builders: the names that a pickle may hold, each with the function to call with the pickle's arguments.
        persistent: makes an object from a persistent id.

    Raises:
        ValueError: the pickle is damaged, holds a name without a builder, or uses an opcode that tensors do not need.
    """
    machine, texts = _Machine(builders, persistent), 0
    bounded: Any = _Bounded(stream)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
            if number > MOST_OPCODES:
                raise ValueError(f"its pickle has more than {MOST_OPCODES:,} opcodes")
            if isinstance(argument, str | bytes | bytearray):
                texts += getsizeof(argument)  # a text may take four bytes a character
                if texts > MOST_BYTES:
                    raise ValueError(f"its pickle has texts and arrays of more than {MOST_BYTES:,} bytes")
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, OverflowError, Warning) as error:
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
        elif name == "FROZENSET":
            self._pop_to_mark()
            stack.append(Passed())
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            self._add([self.pop()] if name == "APPEND" else self._pop_to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self._set([self.pop(), self.pop()][::-1] if name == "SETITEM" else self._pop_to_mark())
        elif name == "GLOBAL":
            module, _, what = argument.partition(" ")
            stack.append(self._builder((module, what)))
        elif name == "STACK_GLOBAL":
            what, module = self.pop(), self.pop()
            stack.append(self._builder((module, what)))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
                self.pop()  # arguments by keyword, which no tensor has
            arguments, build = self.pop(), self.pop()
            if not isinstance(build, _Named):
                raise ValueError("its pickle calls an object that is not a name")
            stack.append(build.builder(*arguments))
        elif name == "BUILD":
            self._build(self.pop())
        elif name == "BINPERSID" and self._persistent is not None:
            stack.append(self._persistent(self.pop()))
        elif name not in _PASSED_OVER:
            raise ValueError(f"its pickle has the opcode {name}, which files of tensors do not need")

    def _add(self, values: list[Any]) -> None:
        """Adds values to the list on top; other containers with an order or a set's name are passed over."""
        if not isinstance(self._stack[-1], Passed):
            _of(list, self._stack[-1]).extend(values)

    def _set(self, values: list[Any]) -> None:
        """Sets entries of the dict on top; keys that are neither texts nor integers are passed over."""
        if not isinstance(self._stack[-1], Passed):
            pairs = [(values[i], values[i + 1]) for i in range(0, len(values), 2)]
            _of(dict, self._stack[-1]).update({key: value for key, value in pairs if isinstance(key, KEYS)})

    def _build(self, state: Any) -> None:
        """Sets the state of the object on top, where it is of use; attributes of others are passed over."""
        target = self._stack[-1]
        if isinstance(target, Attributes) and isinstance(state, dict):
            target.update(state)
        elif hasattr(target, "set_state"):
            target.set_state(state)

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


def builder_of(value: Any) -> Builder:
    """Returns the builder of a name that a pickle stores as an object, such as a function to call."""
    return _of(_Named, value).builder


def _of(kind: Any, value: Any) -> Any:
    """Returns the value. Raises TypeError unless it is of this kind."""
    if not isinstance(value, kind):
        raise TypeError
    return value

"""Counts of a compiled program of a TPU or GPU, read from XLA's text of it: traffic of memory, collectives, copies.

Traffic is what the operations read from and write to the chip's memory (HBM), with the tiles that arrays are padded to.
Arrays in a TPU's vector memory, `S(1)` in the text, cost nothing; what is fetched there beforehand is read once. Loops
count as one turn.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\](\{{[^}}]*\}})?")
TILED = re.compile(r"\{([\d,]*):T\((\d+),(\d+)\)")
COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
OPERATION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
FETCHES = ("copy-start", "async-start", "slice-start")
# Operations that move nothing by themselves.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "partition-id"}
FREE |= {"copy-done", "all-reduce-done", "async-done", "slice-done"}
COLLECTIVES = ("all-reduce", "all-reduce-start")


class Operation(NamedTuple):
    """One operation: its name, the type of its result, its kind, and the text behind: operands and attributes."""

    name: str
    type: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """Names of its operands; "fusion.1#2" is the third part of a result."""
        return re.findall(r"%([\w.\-#]+)", self.rest.partition(")")[0])

    @property
    def calls(self) -> str:
        """The name of the computation that a fusion runs."""
        found = re.search(r"calls=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


class Program:
    """The operations of an optimised program, by computation."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Operation]] = {}
        current: list[Operation] = []
        for line in text.splitlines():
            if begins := COMPUTATION.match(line):
                current = self.computations.setdefault(begins[1], [])
            elif found := OPERATION.match(line):
                current.append(Operation(*found.groups()))
        called = (re.findall(r"(?:calls=|to_apply=|called_computations=\{)%?([\w.\-]+)", op.rest) for op in self._all())
        self._called = {name for names in called for name in names}

    def _all(self) -> Iterator[Operation]:
        for operations in self.computations.values():
            yield from operations

    def executed(self) -> Iterator[tuple[Operation, dict[str, str]]]:
        """The operations that run by themselves, not as a part of another, each with the types of its neighbours."""
        for name, operations in self.computations.items():
            if name in self._called:
                continue
            types = {operation.name: operation.type for operation in operations}
            for operation in operations:
                if operation.kind not in FREE:
                    yield operation, types

    def count(self, *kinds: str) -> int:
        """The number of operations of these kinds that run by themselves."""
        return sum(operation.kind in kinds for operation, _ in self.executed())

    def traffic(self) -> int:
        """Bytes that the operations read from and write to memory."""
        return sum(self._moved(operation, types) for operation, types in self.executed())

    def reduced(self) -> int:
        """Bytes that a device adds to those of others."""
        operations = (operation for operation, _ in self.executed() if operation.kind in COLLECTIVES)
        return sum(size_of(re.sub(r"S\(\d+\)", "", operation.type)) for operation in operations)

    def _moved(self, operation: Operation, types: dict[str, str]) -> int:
        if operation.kind in FETCHES:
            source = size_of(type_of(operation.operands[0], types)) if operation.operands else 0
            return source or size_of(operation.type)
        moved = size_of(operation.type) + sum(size_of(type_of(name, types)) for name in operation.operands)
        return moved - self._left_in_place(operation, types) if operation.kind == "fusion" else moved

    def _left_in_place(self, fusion: Operation, types: dict[str, str]) -> int:
        """Bytes of arrays of which a fusion writes a slice in place, and so neither reads nor writes the rest."""
        inner = {operation.name: operation for operation in self.computations.get(fusion.calls, [])}
        left = 0
        for operation in inner.values():
            target = inner.get(operation.operands[0]) if operation.kind == "dynamic-update-slice" else None
            if target is None or target.kind != "parameter":
                continue
            number = int(target.rest.partition(")")[0])
            argument = size_of(type_of(fusion.operands[number], types)) if number < len(fusion.operands) else 0
            whole = size_of(operation.type)
            if whole and argument:
                update = inner.get(operation.operands[1])
                left += whole + argument - (size_of(re.sub(r"S\(\d+\)", "", update.type)) if update else 0)
        return left


def type_of(name: str, types: dict[str, str]) -> str:
    """The type of an operand, which may be a part of a result."""
    if name in types or "#" not in name:
        return types.get(name, "")
    whole, _, part = name.rpartition("#")
    parts = [found[0] for found in ARRAY.finditer(types.get(whole, ""))]
    return parts[int(part)] if int(part) < len(parts) else ""


def size_of(type_text: str) -> int:
    """Bytes in memory of all arrays of a type, with their padding."""
    return sum(_padded(*found) for found in ARRAY.findall(type_text) if "S(" not in found[2])


def _padded(kind: str, sizes: str, layout: str) -> int:
    shape = [int(size) for size in sizes.split(",") if size]
    tiled = TILED.match(layout)
    if tiled and len(shape) >= 2:
        minor, second = (int(axis) for axis in tiled[1].split(",")[:2])
        for axis, tile in ((minor, int(tiled[3])), (second, int(tiled[2]))):
            shape[axis] = -(-shape[axis] // tile) * tile
    size = BYTES[kind]
    for length in shape:
        size *= length
    return size

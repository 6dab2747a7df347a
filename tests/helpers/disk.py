"""A disk that forgets: the states in which a loss of power may leave the files that recorded calls have written.

By POSIX a file's content is on the disk after its own `fsync` alone, and a name after the `fsync` of its folder. A
disk may write any of the rest earlier.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from file_calls import Call

TRUNCATES, TEMPORARY, CREATES, REMOVES_FOLDER = 0o1000, 0o20000000, 0o100, 0x200  # flags of Linux
Files = dict[str, bytes | None]  # by path; None is a folder


class File:
    """The content of a file: as programs see it, as it is on the disk, and the changes between both."""

    def __init__(self) -> None:
        self.data, self.stored = b"", b""
        self.changes: list[tuple[int, bytes] | int] = []  # a write at a place, or a new size

    def change(self, change: tuple[int, bytes] | int) -> None:
        self.data = changed(self.data, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.stored, self.changes = self.data, []


class Folder:
    """The names in a folder: as programs see them, as they are on the disk, and the changes between both."""

    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}
        self.stored: dict[str, File | Folder] = {}
        self.changes: list[dict[str, File | Folder | None]] = []  # names of one change come together; None is removed

    def change(self, change: dict[str, "File | Folder | None"]) -> None:
        self.names = renamed(self.names, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.stored, self.changes = self.names, []


def changed(data: bytes, change: tuple[int, bytes] | int) -> bytes:
    """Content after a write or a new size; bytes that nothing has written are zero."""
    if isinstance(change, int):
        return data[:change].ljust(change, b"\0")
    start, written = change
    return data[:start].ljust(start, b"\0") + written + data[start + len(written) :]


def renamed(names: Mapping[str, File | Folder], change: Mapping[str, File | Folder | None]) -> dict[str, File | Folder]:
    """The names of a folder after a change."""
    merged = {**names, **change}
    return {name: node for name, node in merged.items() if node is not None}


class Disk:
    """The files below a folder, which was empty and on the disk when recording began."""

    def __init__(self, root: Path):
        self._root, self._top = str(root), Folder()

    def _place(self, path: str) -> tuple[Folder, str] | None:
        """The folder that has a path, and the last name; None for the root, and for a file without a name."""
        parts = path[len(self._root) :].strip("/").split("/")
        folder = self._top
        for part in parts[:-1]:
            inner = folder.names.get(part)
            if not isinstance(inner, Folder):
                return None
            folder = inner
        return (folder, parts[-1]) if parts[-1] else None

    def _node(self, path: str) -> File | Folder | None:
        if path.rstrip("/") == self._root:
            return self._top
        place = self._place(path)
        return place[0].names.get(place[1]) if place else None

    def apply(self, call: Call) -> None:
        """Does what a recorded call did."""
        name, place, node = call.name, self._place(call.path), self._node(call.path)
        if name == "sync" and node:
            node.sync()
        elif place is None or (name == "open" and call.start & TEMPORARY == TEMPORARY):
            return
        elif name == "mkdir":
            place[0].change({place[1]: Folder()})
        elif name == "open" and node is None and call.start & CREATES:
            place[0].change({place[1]: File()})
        elif name == "open" and isinstance(node, File) and call.start & TRUNCATES and node.data:
            node.change(0)
        elif name in ("write", "truncate") and isinstance(node, File):
            node.change((call.start, call.data) if name == "write" else call.start)
        elif name in ("unlink", "rmdir"):
            place[0].change({place[1]: None})
        elif name in ("rename", "link") and node:
            there = self._place(call.other)
            if there is None:
                raise ValueError(f"{call.other} is outside of {self._root}")
            gone: dict[str, File | Folder | None] = {place[1]: None} if name == "rename" else {}
            if there[0] is place[0]:
                place[0].change({**gone, there[1]: node})
            else:
                there[0].change({there[1]: node})
                place[0].change(gone)
        elif name in ("copy", "symlink") or (name == "allocate" and isinstance(node, File)):
            raise ValueError(f"no model of {name} of {call.path}")

    def kept(self) -> Files:
        """The state in which everything is on the disk, as after the end of the process alone."""
        return files(self._top, lambda folder: folder.names, lambda file: file.data)

    def dropped(self) -> Files:
        """The state in which all that was not synced is lost."""
        return files(self._top, lambda folder: folder.stored, lambda file: file.stored)

    def emptied(self) -> Files:
        """The state of ext4 and XFS with all names, and without the content that was not synced."""

        def content(file: File) -> bytes:
            sizes = [len(file.stored), *(change for change in file.changes if isinstance(change, int))]
            return file.stored[: min(sizes)]

        return files(self._top, lambda folder: folder.names, content)

    def any(self, draw: random.Random) -> Files:
        """A state with some of the changes that were not synced; of some writes only the new size, and zeros."""

        def content(file: File) -> bytes:
            data = file.stored
            for change in file.changes:
                luck = draw.random()
                if luck < 0.6:
                    zeros = luck > 0.5 and not isinstance(change, int)
                    data = changed(data, (change[0], bytes(len(change[1]))) if zeros else change)
            return data

        def names(folder: Folder) -> Mapping[str, File | Folder]:
            there: Mapping[str, File | Folder] = folder.stored
            for change in folder.changes:
                if draw.random() < 0.5:
                    there = renamed(there, change)
            return there

        return files(self._top, names, content)


def files(
    top: Folder, names: Callable[[Folder], Mapping[str, File | Folder]], content: Callable[[File], bytes]
) -> Files:
    """All folders and files below a folder, by their paths."""
    found: Files = {}

    def walk(folder: Folder, path: str) -> Iterator[tuple[str, bytes | None]]:
        for name, node in sorted(names(folder).items()):
            if isinstance(node, File):
                yield path + name, content(node)
            else:
                yield path + name, None
                yield from walk(node, f"{path}{name}/")

    found.update(walk(top, ""))
    return found


def write_files(state: Files, root: Path) -> None:
    """Writes a state to a folder that exists."""
    for path, data in state.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def read_files(root: Path) -> Files:
    """The files and folders below a folder."""
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}

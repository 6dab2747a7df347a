"""What a run says while it goes on: lines, and a bar where there is a terminal."""

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Bar:
    """A progress bar that counts images; where there is no terminal it draws nothing."""

    def __init__(self, title: str, total: int, shown: bool):
        self._bar = tqdm(total=total, desc=title, unit=" images", leave=False, disable=None if shown else True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._bar.close()

    def advance(self, images: int, note: str) -> None:
        """Counts images, and shows a note beside the bar."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(images)


class Terminal:
    """Where a run talks to; a quiet one says nothing."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet

    def say(self, line: str) -> None:
        """Prints a line at once."""
        if not self._quiet:
            print(line, flush=True)

    def bar(self, title: str, total: int) -> Bar:
        """A bar for as long as it is entered."""
        return Bar(title, total, shown=not self._quiet)

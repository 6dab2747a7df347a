"""Output of a run on the terminal: lines, and a progress bar."""

import sys

from tqdm import tqdm

from common_flax.terminal import tell, visible


def progress_bar(title: str, total: int, shown: bool) -> tqdm:
    """Makes a progress bar that counts images; it appears only if `shown` is True and stderr is a terminal."""
    return tqdm(total=total, desc=title, unit=" images", leave=False, disable=None if shown else True)


def complain_above_bar(line: str) -> None:
    """Prints a line on stderr, above the progress bar if there is one."""
    tqdm.write(visible(line), file=sys.stderr)


class Terminal:
    """Prints the lines of a run; a quiet one prints nothing."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def say(self, line: str) -> None:
        """Prints a line at once."""
        if not self.quiet:
            tell(line)

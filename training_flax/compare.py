"""Compares runs: a table on the terminal, and a picture of their curves.

python -m training_flax.compare runs/first runs/second --out compare.png
"""

import sys

from common_flax.command_line import write_to_any_terminal
from training_flax.run.comparison import main

if __name__ == "__main__":
    write_to_any_terminal()
    sys.exit(main(sys.argv[1:]))

"""Compares runs: a table on the terminal, and a picture of their curves.

python -m training_flax.compare runs/first runs/second --out compare.png
"""

from common_flax.command_line import start_command
from training_flax.run.comparison import main

if __name__ == "__main__":
    start_command(main)

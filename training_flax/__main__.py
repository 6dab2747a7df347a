"""Trains a residual or densely connected network, as train.py does, from the installed package.

python -m training_flax --arch densenet121
"""

import sys

from common_flax.command_line import write_to_any_terminal
from training_flax.train_command import main

if __name__ == "__main__":
    write_to_any_terminal()
    sys.exit(main(sys.argv[1:], prog="python -m training_flax"))

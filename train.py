#!/usr/bin/env python3
"""Trains a residual or densely connected network; `python -m training_flax` is the same command.

python train.py --arch densenet121
"""

import sys

from common_flax.command_line import write_to_any_terminal
from training_flax.train_command import main

if __name__ == "__main__":
    write_to_any_terminal()
    sys.exit(main(sys.argv[1:], prog="train.py"))

"""Downloads a data set with TensorFlow Datasets and stores it so that training reads it without TensorFlow.

python -m training_flax.prepare cifar10 --data-dir DIR
"""

import sys

from common_flax.command_line import write_to_any_terminal
from training_flax.data.prepare import main

if __name__ == "__main__":
    write_to_any_terminal()
    sys.exit(main(sys.argv[1:]))

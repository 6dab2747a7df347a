"""Downloads a data set with TensorFlow Datasets and stores it so that training reads it without TensorFlow.

python -m training_flax.prepare cifar10 --data-dir DIR
"""

from common_flax.command_line import start_command
from training_flax.prepare_command import main

if __name__ == "__main__":
    start_command(main)

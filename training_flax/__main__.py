"""Trains a residual or densely connected network, as train.py does, from the installed package.

python -m training_flax --arch densenet121
"""

from common_flax.signals import stop_on_signals
from training_flax.train_command import start

if __name__ == "__main__":
    with stop_on_signals() as stop:
        start("python -m training_flax", stop)

#!/usr/bin/env python3
"""Trains a residual or densely connected network; `python -m training_flax` is the same command.

python train.py --arch densenet121
"""

from common_flax.optional import import_jax
from common_flax.signals import stop_on_signals

if __name__ == "__main__":
    with stop_on_signals() as stop:  # before the other imports, which take seconds
        import_jax("train.py")
        from training_flax.train_command import start

        start("train.py", stop)

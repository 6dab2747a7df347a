"""Predicts the classes of images with a trained network: a table, JSON lines or a picture.

python -m training_flax.predict --run runs/first photo.jpg folder
"""

import sys

from common_flax.command_line import start_command
from training_flax.inference.command import main
from training_flax.inference.predict import predict

if __name__ == "__main__":
    if sys.stdin is not None:
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # file names may be any bytes
    start_command(main)
else:
    # Importing this module would replace the function `training_flax.predict` by the module.
    sys.modules[__name__] = predict  # type: ignore[assignment]

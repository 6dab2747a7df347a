"""The settings, images and projections that the stored trainings of PyTorch were made with, in float64.

`tests/golden/training.npz` holds for each network and case, after the steps `LOOKED_AT`: the loss of each step, and two
projections of every tensor, and of its moving average if the case has one (see `make_training.py`).
"""

import numpy as np
from references import probe

NETWORKS = ("resnet20", "densenet_bc_40_12")
STEPS, BATCH, PIXELS = 30, 8, 8
LOOKED_AT = (1, 2, 10, 30)
PROJECTIONS = 2

# Options of `TrainConfig`. What a case leaves out is as here.
USUAL = dict(lr=0.02, momentum=0.9, weight_decay=1e-3, decay="all", schedule="constant")
CASES = {
    "momentum and decay": {},
    "warm-up and steps": dict(schedule="step", decay_at=(0.5, 0.75), warmup=0.2, warmup_lr=0.004, ema=0.9),
    "warm-up and cosine": dict(
        schedule="cosine", warmup=0.2, warmup_lr=0.004, nesterov=True, decay="kernels", ema=0.85, ema_warmup=True
    ),
    "constant warm-up": dict(schedule="step", decay_at=(0.6,), warmup=0.1, warmup_lr=0.01, warmup_shape="constant"),
    "smoothing": dict(label_smoothing=0.1),
    "accumulation": dict(accumulate=2),
    "clipping": dict(clip_norm=1.0),
    "adamw": dict(optimizer="adamw", lr=0.001, schedule="cosine", warmup=0.2, warmup_lr=1e-4),
}


def options(case):
    """All options of a case, those of averages too."""
    return USUAL | dict(ema=0.0, ema_warmup=False, label_smoothing=0.0, accumulate=1, clip_norm=0.0) | CASES[case]


def batch(step):
    """Images (BATCH, PIXELS, PIXELS, 3) float64 and labels of a step, counted from 0."""
    rng = np.random.default_rng((20161008, step))
    return rng.standard_normal((BATCH, PIXELS, PIXELS, 3)), rng.integers(0, 10, BATCH)


def projections(tensors):
    """(tensors, PROJECTIONS): the products of each tensor with arrays of random numbers, over the tensor's norm.

    The expected square of an error's projection is the square of its norm: an error in any place shows.
    """
    rows = []
    for name in sorted(tensors):
        value = np.asarray(tensors[name], np.float64)
        norm = max(np.linalg.norm(value), 1e-3)
        rows.append([(probe(f"{name} {n}", value.shape) * value).sum() / norm for n in range(PROJECTIONS)])
    return np.array(rows)

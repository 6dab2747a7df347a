"""The order of the examples in training."""

from functools import lru_cache

import numpy as np


def batch_indices(step: int, batch_size: int, examples: int, seed: int) -> np.ndarray:
    """Returns the indices of the examples in the batch of `step`, counted from 0: (batch_size,) int32.

    Training reads one endless sequence: all examples in the order of epoch 0, then of epoch 1, and so on; each order
    depends on (seed, epoch) alone. A batch may span two epochs, so every example comes exactly once per epoch and every
    batch is full.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = positions // examples, positions % examples
    batch = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        batch[epochs == epoch] = _epoch_order(seed, int(epoch), examples)[places[epochs == epoch]]
    return batch


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(examples)

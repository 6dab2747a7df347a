"""Makes class_weights.npz: losses and gradients of torch's CrossEntropyLoss with weights of classes, in float64.

python tests/golden/make_class_weights.py  (needs torch and numpy)
"""

from pathlib import Path

import numpy as np
import torch

rng = np.random.default_rng(0)
logits, labels = rng.normal(0, 2, (12, 4)), rng.integers(0, 4, 12)
weights = np.array([0.5, 2.0, 0.0, 1.25])
shares = rng.uniform(0, 1, 12)[:, None]
one_hot = np.eye(4)[labels]
mixed = shares * one_hot + (1 - shares) * one_hot[::-1]
arrays = {"logits": logits, "labels": labels, "weights": weights, "mixed": mixed}
for smoothing in (0.0, 0.1):
    loss = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=smoothing)
    for name, targets in (("labels", torch.tensor(labels)), ("mixed", torch.tensor(mixed))):
        given = torch.tensor(logits, requires_grad=True)
        value = loss(given, targets)
        value.backward()
        arrays[f"{name}/{smoothing}/loss"] = value.detach().numpy()
        arrays[f"{name}/{smoothing}/gradient"] = given.grad.numpy()
np.savez_compressed(Path(__file__).parent / "class_weights.npz", **arrays)

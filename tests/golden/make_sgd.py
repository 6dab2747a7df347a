"""Makes sgd.npz: twenty steps of PyTorch's SGD in float64, in four settings. Needs torch; run beside this file."""

import numpy as np
import torch

SETTINGS = {
    "plain": dict(momentum=0.0, weight_decay=0.0, nesterov=False),
    "decay": dict(momentum=0.0, weight_decay=1e-2, nesterov=False),
    "momentum": dict(momentum=0.9, weight_decay=1e-4, nesterov=False),
    "nesterov": dict(momentum=0.9, weight_decay=1e-2, nesterov=True),
}

rng = np.random.default_rng(0)
start, gradients = rng.standard_normal((3, 4)), rng.standard_normal((20, 3, 4))
arrays = {"start": start, "gradients": gradients}
for name, options in SETTINGS.items():
    weight = torch.nn.Parameter(torch.tensor(start))
    optimiser = torch.optim.SGD([weight], lr=0.1, **options)
    steps = []
    for number, gradient in enumerate(gradients):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 if number < 10 else 0.01
        weight.grad = torch.tensor(gradient)
        optimiser.step()
        steps.append(weight.detach().numpy().copy())
    arrays[name] = np.stack(steps)
np.savez_compressed("sgd.npz", **arrays)

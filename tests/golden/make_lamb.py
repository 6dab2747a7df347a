"""Makes lamb.npz: six steps of timm's LAMB in float64, of parameters that decay and others. Needs torch and timm."""

from pathlib import Path

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from timm.optim.lamb import Lamb

RATES = (0.001, 0.02, 0.1, 0.1, 0.05, 0.01)
SHAPES = {"conv1.kernel": (3, 3, 2, 4), "zero.kernel": (2, 3), "fc.kernel": (4, 3)}
SHAPES |= {"bn1.scale": (4,), "bn1.bias": (4,), "fc.bias": (3,)}

rng = np.random.default_rng(0)
start = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
start |= {"zero.kernel": np.zeros(SHAPES["zero.kernel"]), "bn1.bias": np.zeros(4)}
# The norm of some gradients is over 1, which is clipped, that of others is under 1; one gradient is zero.
gradients = {
    name: np.stack([scale * rng.standard_normal(shape) for scale in (1, 0.01, 3, 0.1, 0.05, 10)])
    for name, shape in SHAPES.items()
}
gradients["fc.bias"][:] = 0
arrays = {"rates": np.array(RATES)}
for decay in (0.02, 0.0):
    network = torch.nn.ParameterDict({name.replace(".", "_"): torch.tensor(value) for name, value in start.items()})
    optimizer = Lamb(param_groups_weight_decay(network, decay), lr=0.1, weight_decay=decay, max_grad_norm=1.0)
    for step, rate in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, values in gradients.items():
            network[name.replace(".", "_")].grad = torch.tensor(values[step])
        optimizer.step()
        for name in SHAPES:
            arrays[f"{decay}/{step}/{name}"] = network[name.replace(".", "_")].detach().numpy().copy()
arrays |= {f"start/{name}": value for name, value in start.items()}
arrays |= {f"gradients/{name}": value for name, value in gradients.items()}
np.savez_compressed(Path(__file__).parent / "lamb.npz", **arrays)

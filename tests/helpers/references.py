"""The deterministic weights and images that the stored arrays of torchvision's networks were made with.

`tests/golden/ARCH.json` lists a state dict's names and shapes in torchvision's order; `ARCH.npz` holds, in float64:
logits in eval and train mode, the loss, the norm and one random projection of each gradient, and the sums of the
running statistics after one forward pass in train mode. What is in `ARCH_features.npz` is said where it is made, in
`make_features.py`.
"""

import json
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
LABELS = np.array([3, 141, 592, 653])


def load(arch, kind=""):
    """The manifest [(name, shape)] and the arrays of one architecture; of `kind` "_features" those of its features."""
    manifest = json.loads((GOLDEN / f"{arch}.json").read_text())["manifest"]
    with np.load(GOLDEN / f"{arch}{kind}.npz") as arrays:
        return [(name, tuple(shape)) for name, shape in manifest], dict(arrays)


def images():
    """(4, 64, 64, 3) float64."""
    return np.random.default_rng(20151210).standard_normal((4, 3, 64, 64)).transpose(0, 2, 3, 1)


def tensor(name, shape):
    """One tensor of the state dict, from its name and shape alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return float(name.endswith("weight")) + 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))


def probe(name, shape):
    """What a gradient is projected on: a wrong axis order or a mixed-up name shows in the product."""
    return np.random.default_rng(zlib.crc32(f"probe:{name}".encode())).standard_normal(shape)


def flax_tensor(path, shape):
    """One variable of a Flax or Keras network, from its path, such as "params/bn_init/scale", and shape alone."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    leaf = path.rpartition("/")[2]
    if leaf in ("var", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        return float(leaf in ("scale", "gamma")) + 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[:-1]))


def small_images():
    """(16, 32, 32, 3) float64."""
    return np.random.default_rng(20151210).standard_normal((16, 32, 32, 3))


def projections(name, x):
    """Two projections of a map (batch, height, width, channels), which together see every value and its place."""
    by_pixel, by_channel = probe(f"{name} pixels", x.shape[1:3]), probe(f"{name} channels", x.shape[3:])
    return {
        f"{name}_channels": np.einsum("bhwc,hw->bc", x, by_pixel),
        f"{name}_pixels": np.einsum("bhwc,c->bhw", x, by_channel),
    }

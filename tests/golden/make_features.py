"""Makes ARCH_features.npz: what torchvision's networks see of the images, in float64. Needs torchvision.

Run beside this file. Weights and images are those of tests/helpers/references.py, in eval mode. Of each map (batch,
height, width, channels) there are two projections, which see every value and its place: "NAME_channels", weighted sums
over the pixels, and "NAME_pixels", weighted sums over the channels. "pooled" is whole; logits are in ARCH.npz.
"""

import sys
from functools import partial

import numpy as np
import torch
import torchvision

sys.path.insert(0, "../helpers")
import references

# The module whose output it is; "pooled" is what the classifier takes.
MODULES = {
    "resnet50": {"stem": "maxpool", **{f"stage{i}": f"layer{i + 1}" for i in range(4)}, "pooled": "fc"},
    "densenet121": {
        "stem": "features.pool0",
        **{f"stage{i}": f"features.denseblock{i + 1}" for i in range(4)},
        "pooled": "classifier",
    },
}

torch.set_default_dtype(torch.float64)
for arch, modules in MODULES.items():
    manifest, stored = references.load(arch)
    model = getattr(torchvision.models, arch)(weights=None)
    state = {name: torch.tensor(references.tensor(name, shape)) for name, shape in manifest}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    found = {}

    def keep(_, inputs, output, name, found=found):
        found[name] = inputs[0] if name == "pooled" else output

    for name, module in modules.items():
        model.get_submodule(module).register_forward_hook(partial(keep, name=name))
    with torch.no_grad():
        logits = model.eval()(torch.tensor(references.images().transpose(0, 3, 1, 2))).numpy()
    assert np.abs(logits - stored["eval_logits"]).max() <= 1e-12 * np.abs(logits).max()
    arrays = {"pooled": found.pop("pooled").numpy()}
    for name, value in found.items():
        arrays |= references.projections(name, value.numpy().transpose(0, 2, 3, 1))
    np.savez_compressed(f"{arch}_features.npz", **arrays)

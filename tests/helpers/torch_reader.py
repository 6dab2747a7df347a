"""Run by a Python that has PyTorch: loads state dicts strictly into others' networks, and stores their logits.

python torch_reader.py FOLDER    (needs: torch, torchvision, timm)

FOLDER/jobs.json lists [file, library, architecture]; each leaves FOLDER/FILE.npy for FOLDER/images.npy (NCHW).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

# torchvision's wheels are made for PyTorch with CUDA; two of their operators are asked for at import, and not used.
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


def main(folder):
    images = torch.from_numpy(np.load(folder / "images.npy"))
    for file, source, arch in json.loads((folder / "jobs.json").read_text()):
        state = torch.load(folder / file, weights_only=True)
        make = torchvision.models.get_model if source == "torchvision" else timm.create_model
        model = make(arch).eval()
        model.load_state_dict(state, strict=True)
        with torch.no_grad():
            np.save(folder / f"{file}.npy", model(images).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Run by a Python that has PyTorch: loads a state dict strictly into another's network, and stores its logits.

python torch_reader.py FOLDER LIBRARY ARCH    (needs: torch, torchvision, timm)

FOLDER/weights.pt leaves FOLDER/logits.npy for FOLDER/images.npy (NCHW).
"""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

# torchvision's operators are made for PyTorch with CUDA, and do not load into a PyTorch for the CPU alone. Two of them
# are asked for at import, and not used.
library = torch.library.Library("torchvision", "FRAGMENT")
for operators in Path(importlib.util.find_spec("torchvision").origin).parent.glob("_C*.so"):
    with suppress(OSError):
        torch.ops.load_library(operators)
if not hasattr(torch.ops.torchvision, "nms"):
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


def main(folder, source, arch):
    make = torchvision.models.get_model if source == "torchvision" else timm.create_model
    model = make(arch).eval()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True), strict=True)
    with torch.no_grad():
        np.save(folder / "logits.npy", model(torch.from_numpy(np.load(folder / "images.npy"))).numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

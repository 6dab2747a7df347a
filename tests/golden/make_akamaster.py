"""Stores PyTorch's logits of a ResNet-20 that others have trained, in float32, for `references.small_images`.

python tests/golden/make_akamaster.py    (needs: pip install torch==2.13.0)

cifar10_resnet20_akamaster.th is from https://github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause, see NOTICE.md),
as `torch.save` of an old version has written it.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from references import small_images  # noqa: E402


class Block(nn.Module):
    def __init__(self, inner, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.grows, self.stride = out - inner, stride

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.grows // 2, self.grows // 2)))


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        inner = 16
        for stage, out in enumerate((16, 32, 64), 1):
            strides = (1 if stage == 1 else 2, 1, 1)
            blocks = []
            for stride in strides:
                blocks.append(Block(inner, out, stride))
                inner = out
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def main():
    state = torch.load(HERE / "cifar10_resnet20_akamaster.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20().eval()
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    images = torch.from_numpy(small_images().transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        logits = model(images).numpy()
    np.savez_compressed(HERE / "akamaster.npz", logits=logits)
    print(np.abs(logits).max(), logits.argmax(1))


if __name__ == "__main__":
    main()

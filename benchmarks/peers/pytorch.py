"""PyTorch's ResNet and DenseNet, as in torchvision. Needs only torch, in its own environment."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.works import Work


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.c2, self.b2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.c3, self.b3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = project(inputs, 4 * width, stride)

    def forward(self, x):
        y = F.relu(self.b1(self.c1(x)), True)
        y = F.relu(self.b2(self.c2(y)), True)
        return F.relu(self.b3(self.c3(y)) + self.shortcut(x), True)


class Basic(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.c2, self.b2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = project(inputs, width, stride)

    def forward(self, x):
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x)), True))) + self.shortcut(x), True)


def project(inputs, outputs, stride):
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.b1, self.c1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.b2, self.c2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x):
        y = self.c1(F.relu(self.b1(x), True))
        return torch.cat([x, self.c2(F.relu(self.b2(y), True))], 1)


def stem(small, width):
    if small:
        return [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    first = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    return [first, nn.BatchNorm2d(width), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]


def resnet(sizes, block, width, expansion, classes, small):
    layers, channels = stem(small, width), width
    if small:
        layers += [nn.BatchNorm2d(channels), nn.ReLU(True)]
    for i, size in enumerate(sizes):
        for j in range(size):
            layers.append(block(channels, width * 2**i, 2 if i and j == 0 else 1))
            channels = expansion * width * 2**i
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def densenet(sizes, growth, width, classes, small):
    layers, channels = stem(small, width), width
    for i, size in enumerate(sizes):
        for _ in range(size):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU(True)]
        if i < len(sizes) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


MODELS = {
    "resnet50": lambda: resnet((3, 4, 6, 3), Bottleneck, 64, 4, 1000, False),
    "densenet121": lambda: densenet((6, 12, 24, 16), 32, 64, 1000, False),
    "resnet20": lambda: resnet((3, 3, 3), Basic, 16, 1, 10, True),
    "resnet32": lambda: resnet((5, 5, 5), Basic, 16, 1, 10, True),
    "resnet44": lambda: resnet((7, 7, 7), Basic, 16, 1, 10, True),
    "resnet56": lambda: resnet((9, 9, 9), Basic, 16, 1, 10, True),
    "densenet_bc_100_12": lambda: densenet((16, 16, 16), 12, 24, 10, True),
}


def prepare(work: Work, channels_last: bool) -> tuple[Callable[[], Any], dict[str, float]]:
    """Returns a function that does the work once."""
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.standard_normal((work.batch, 3, work.pixels, work.pixels)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, work.classes, work.batch))
    model = MODELS[work.arch]()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.train(work.train)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            model(images)

    return train if work.train else infer, {}

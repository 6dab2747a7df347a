"""Makes the checkpoints in this folder's checkpoints/ with PyTorch, and the logits of their networks.

    python make_checkpoints.py checkpoints        (torch 2.13.0 and numpy; no other package)

A small ResNet under torchvision's names is saved as PyTorch's ImageNet example, Lightning, `AveragedModel`, timm and
`torch.compile` save theirs.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(shortcut + self.bn2(self.conv2(y)))


class Net(nn.Module):
    """ResNet((1, 1), width=4, num_classes=3) of this project."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        self.layer1, self.layer2 = nn.Sequential(Block(4, 4, 1)), nn.Sequential(Block(4, 8, 2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def made(seed):
    torch.manual_seed(seed)
    net = Net()
    for name, buffer in net.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand(buffer.shape) / 2 + 0.5)
    return net.eval()


class Module(nn.Module):
    """The parts of a Lightning module."""

    def __init__(self, net):
        super().__init__()
        self.model, self.criterion = net, nn.CrossEntropyLoss(weight=torch.ones(3))


def main(out):
    net, average = made(0), made(1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, averaged = net(images).numpy(), average(images).numpy()
    np.savez(out / "logits.npz", images=images.numpy().transpose(0, 2, 3, 1), logits=logits, averaged=averaged)
    net(images).sum().backward()
    optimizer.step()  # so that its state holds momenta
    net = made(0)
    example = {"epoch": 3, "arch": "mine", "state_dict": nn.DataParallel(net).state_dict()}
    example |= {"best_acc1": torch.tensor(76.1), "optimizer": optimizer.state_dict()}
    torch.save(example, out / "model_best.pth.tar")
    lightning = {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5.0"}
    lightning |= {"state_dict": Module(net).state_dict(), "optimizer_states": [optimizer.state_dict()]}
    lightning |= {"callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(1.0), "dirpath": "x"}}}
    lightning |= {"hyper_parameters": {"lr": 0.1, "out": pathlib.PurePosixPath("runs")}, "loops": {}}
    torch.save(lightning, out / "lightning.ckpt")
    torch.save(torch.optim.swa_utils.AveragedModel(net).state_dict(), out / "averaged_model.pth")
    options = argparse.Namespace(model="mine", lr=0.1, output=pathlib.PurePosixPath("runs"), opt_betas=None)
    timm = {"epoch": 3, "arch": "mine", "state_dict": net.state_dict(), "state_dict_ema": average.state_dict()}
    timm |= {"args": options, "metric": np.float64(70.0), "version": 2, "optimizer": optimizer.state_dict()}
    torch.save(timm, out / "timm.pth.tar")
    torch.save(torch.compile(net).state_dict(), out / "compiled.pth")
    odd = {"history": np.arange(3.0), "losses": collections.defaultdict(list, a=[1.0]), "seen": {1, 2}}
    odd |= {"dtype": torch.float32, "numpy": np.dtype("f4"), "device": torch.device("cpu"), "size": torch.Size([1])}
    odd |= {"random": torch.get_rng_state(), "parameter": nn.Parameter(torch.ones(2)), "model": net.state_dict()}
    torch.save(odd, out / "odd.pth")
    torch.save(net.state_dict(), out / "legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

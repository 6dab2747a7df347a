"""Makes training.npz: thirty steps of PyTorch in float64 for two networks, by the cases of `training_reference`.

python tests/golden/make_training.py    (needs: pip install torch==2.13.0; pip install --no-deps timm==1.0.31)

Schedules and clipping are PyTorch's own, averages timm's: `ModelEmaV2`, and `ModelEmaV3` with its warm-up.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from make_akamaster import ResNet20  # noqa: E402
from references import tensor  # noqa: E402
from training_reference import CASES, LOOKED_AT, NETWORKS, STEPS, batch, options, projections  # noqa: E402


def timm_averages():
    """timm's module of averages alone: the package imports torchvision."""
    path = Path(importlib.util.find_spec("timm").submodule_search_locations[0]) / "utils" / "model_ema.py"
    spec = importlib.util.spec_from_file_location("model_ema", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class DenseLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 48, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(48), nn.Conv2d(48, 12, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


class Transition(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNetBC40(nn.Module):
    """DenseNet-BC of 40 layers and growth rate 12 (Huang 2017, section 4), under torchvision's names."""

    def __init__(self):
        super().__init__()
        parts, channels = {"conv0": nn.Conv2d(3, 24, 3, padding=1, bias=False)}, 24
        for block in (1, 2, 3):
            layers = {f"denselayer{n + 1}": DenseLayer(channels + 12 * n) for n in range(6)}
            parts[f"denseblock{block}"] = nn.Sequential()
            for name, layer in layers.items():
                parts[f"denseblock{block}"].add_module(name, layer)
            channels += 72
            if block < 3:
                parts[f"transition{block}"] = Transition(channels)
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential()
        for name, part in parts.items():
            self.features.add_module(name, part)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


def network(arch):
    model = {"resnet20": ResNet20, "densenet_bc_40_12": DenseNetBC40}[arch]()
    if arch == "resnet20":
        model.fc = model.linear  # torchvision's name, under which the weights are drawn
        del model.linear
        model.forward = lambda x: model.fc(
            model.layer3(model.layer2(model.layer1(F.relu(model.bn1(model.conv1(x)))))).mean((2, 3))
        )
    model = model.double()
    state = model.state_dict()
    drawn = {k: torch.tensor(tensor(k, tuple(v.shape))) for k, v in state.items() if v.is_floating_point()}
    model.load_state_dict(state | drawn)
    return model.train()


def schedule_of(optimizer, wanted):
    """PyTorch's scheduler of the learning rate, whose base is the peak."""
    warm = round(wanted.get("warmup", 0) * STEPS)
    if wanted["schedule"] == "cosine":
        main = CosineAnnealingLR(optimizer, STEPS - warm)
    elif wanted["schedule"] == "step":
        main = MultiStepLR(optimizer, [round(share * STEPS) - warm for share in wanted["decay_at"]])
    else:
        main = LambdaLR(optimizer, lambda step: 1.0)
    if not warm:
        return main
    share = wanted["warmup_lr"] / wanted["lr"]
    if wanted.get("warmup_shape") == "constant":
        first = ConstantLR(optimizer, share, warm)
    else:
        first = LinearLR(optimizer, share, 1.0, warm)
    return SequentialLR(optimizer, [first, main], [warm])


def tensors(model):
    return {k: v.detach().numpy() for k, v in model.state_dict().items() if v.is_floating_point()}


def train(arch, case):
    wanted, model = options(case), network(arch)
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    decay = wanted["weight_decay"]
    groups = [
        {"params": kernels, "weight_decay": decay},
        {"params": others, "weight_decay": decay if wanted["decay"] == "all" else 0.0},
    ]
    if wanted.get("optimizer") == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=wanted["lr"])
    else:
        momentum, nesterov = wanted["momentum"], wanted.get("nesterov", False)
        optimizer = torch.optim.SGD(groups, lr=wanted["lr"], momentum=momentum, nesterov=nesterov)
    scheduler, averages = schedule_of(optimizer, wanted), timm_averages()
    average = None
    if wanted["ema"]:
        if wanted["ema_warmup"]:
            average = averages.ModelEmaV3(model, decay=wanted["ema"], use_warmup=True)
        else:
            average = averages.ModelEmaV2(model, decay=wanted["ema"])
    found, losses, rates, norms = {}, [], [], []
    for step in range(STEPS):
        images, labels = batch(step)
        images, labels = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
        optimizer.zero_grad()
        pieces, loss = wanted["accumulate"], 0.0
        for piece in range(pieces):
            logits = model(images[piece::pieces])
            smooth = F.cross_entropy(logits, labels[piece::pieces], label_smoothing=wanted["label_smoothing"])
            (smooth / pieces).backward()
            loss += float(F.cross_entropy(logits, labels[piece::pieces])) / pieces
        losses.append(loss)
        rates.append(optimizer.param_groups[0]["lr"])
        limit = wanted["clip_norm"] or float("inf")
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), limit)))
        optimizer.step()
        scheduler.step()
        if average is not None:
            average.update(model, step=step + 1) if wanted["ema_warmup"] else average.update(model)
        if step + 1 in LOOKED_AT:
            found[f"after {step + 1}"] = projections(tensors(model))
            if average is not None:
                found[f"average after {step + 1}"] = projections(tensors(average.module))
    return found | {"losses": np.array(losses), "rates": np.array(rates), "norms": np.array(norms)}


def main():
    arrays = {}
    for arch in NETWORKS:
        for case in CASES:
            arrays |= {f"{arch}/{case}/{name}": value for name, value in train(arch, case).items()}
    np.savez_compressed(HERE / "training.npz", **arrays)


if __name__ == "__main__":
    main()

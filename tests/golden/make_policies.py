"""Makes policies.npz: AutoAugment, TrivialAugment, hue and erased boxes by torchvision.

python tests/golden/make_policies.py  (needs torch, torchvision, numpy and Pillow)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import (
    AutoAugment,
    AutoAugmentPolicy,
    InterpolationMode,
    RandomErasing,
    TrivialAugmentWide,
    functional as F,
)
from torchvision.transforms.autoaugment import _apply_op

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from noise import SHAPES, noise, share

BINS = {"auto": (0, 3, 6, 9), "trivial": (0, 7, 16, 30)}


def picture():
    """Makes waves of all grey levels with a little noise, 20 × 28 uint8."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:20, :28]
    waves = [np.sin(rows / a + columns / b + c) for a, b, c in [(5, 9, 0), (-7, 6, 1), (11, -8, 2)]]
    return (120 + 100 * np.stack(waves, -1) + rng.normal(0, 10, (20, 28, 3))).clip(0, 255).astype(np.uint8)


def changed(pixels, kind, space):
    """Yields names and arrays: the tables of amounts, and the picture after each operation at some of them."""
    for name, (amounts, signed) in space.items():
        if amounts.ndim:
            yield f"{kind}/{name}", amounts.numpy()
        for number in BINS[kind] if amounts.ndim else (0,):
            for sign in (1, -1) if signed else (1,):
                amount = sign * float(amounts[number] if amounts.ndim else amounts)
                image = _apply_op(Image.fromarray(pixels), name, amount, InterpolationMode.BILINEAR, None)
                yield f"{kind}/{name}/{number}/{sign}", np.asarray(image)


def erased():
    """Draws areas, aspects and places as RandomErasing does, and the boxes that it makes of them."""
    rows = []
    for seed in range(200):
        height, width = SHAPES[seed]
        torch.manual_seed(seed)
        box = RandomErasing.get_params(torch.zeros(3, height, width), (0.02, 0.33), (0.3, 3.3), [0.0])[:4]
        torch.manual_seed(seed)
        draws = []
        for _ in range(10):
            area = torch.empty(1).uniform_(0.02, 0.33).item()
            low, high = torch.log(torch.tensor((0.3, 3.3)))
            aspect = torch.exp(torch.empty(1).uniform_(low, high)).item()
            draws.append((area, aspect))
            tall, wide = ((height * width * area * ratio) ** 0.5 for ratio in (aspect, 1 / aspect))
            if round(tall) < height and round(wide) < width:
                break
        draws += [(1.0, 1.0)] * (10 - len(draws))  # as large as the image, so that it does not fit
        rows.append((height, width, box[2], box[3], *np.ravel(draws)))
    return np.array(rows)


if __name__ == "__main__":
    pixels, policy, trivial = picture(), AutoAugment(), TrivialAugmentWide()
    arrays = {"picture": pixels, "erased": erased()}
    arrays |= dict(changed(pixels, "auto", policy._augmentation_space(10, pixels.shape[:2])))
    arrays |= dict(changed(pixels, "trivial", trivial._augmentation_space(31)))
    for name in ("IMAGENET", "CIFAR10"):
        pairs = policy._get_policies(AutoAugmentPolicy[name])
        arrays[name] = np.array([[[str(value) for value in op] for op in pair] for pair in pairs])
    colours, turns = noise(0, (8, 8)), [share(number, 30) - 0.5 for number in range(20)] + [0.5, -0.5, 0.0]
    colours[0, 0], colours[0, 1], colours[0, 2, 1] = 77, 0, colours[0, 2, 0]  # grey, black, and two equal channels
    exact = torch.from_numpy(colours / 255).permute(2, 0, 1)
    arrays |= {"colours": colours, "turns": np.array(turns)}
    arrays["hue"] = np.stack([255 * F.adjust_hue(exact, turn).permute(1, 2, 0).numpy() for turn in turns])
    arrays["hue_pillow"] = np.stack([np.asarray(F.adjust_hue(Image.fromarray(colours), turn)) for turn in turns])
    np.savez_compressed(Path(__file__).parent / "policies.npz", **arrays)

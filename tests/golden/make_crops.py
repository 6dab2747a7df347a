"""Makes crops.npz: crops, colours and mixtures of 200 pictures, by torchvision and timm.

python tests/golden/make_crops.py  (needs torch, torchvision, timm, numpy and Pillow)
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from noise import BOXES, CROPS, FACTORS, SHAPES, SHARES, noise, sizes

HERE = Path(__file__).parent / "crops.npz"


def by_torchvision():
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode, functional as F

    arrays = {}
    for name in ("bilinear", "bicubic"):
        mode = InterpolationMode(name)
        crops, boxes = [], []
        for index, shape in enumerate(SHAPES):
            picture = Image.fromarray(noise(index, shape))
            size, short = sizes(index)
            crop = transforms.Compose([transforms.Resize(short, mode), transforms.CenterCrop(size)])
            crops.append(np.asarray(crop(picture)).ravel())
            top, left, height, width = BOXES[index]
            boxes.append(np.asarray(F.resized_crop(picture, top, left, height, width, [size, size], mode)).ravel())
        arrays[f"centre_{name}"], arrays[f"boxes_{name}"] = np.concatenate(crops), np.concatenate(boxes)
    jittered = []
    for index, factors in enumerate(FACTORS):
        picture = Image.fromarray(noise(index, (6, 6)))
        for factor, change in zip(factors, (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), strict=True):
            jittered.append(np.asarray(change(picture, factor)))
        for factor, change in zip(factors, (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), strict=True):
            picture = change(picture, factor)
        jittered.append(np.asarray(picture))
    arrays["jitter"] = np.array(jittered).reshape(len(FACTORS), 4, 6, 6, 3)
    return arrays


def by_timm():
    from timm.data import create_transform

    arrays = {}
    for name in ("bilinear", "bicubic"):
        crops = []
        for index, shape in enumerate(SHAPES):
            size, share = sizes(index)[0], CROPS[index % len(CROPS)]
            crop = create_transform((3, size, size), interpolation=name, crop_pct=share, mean=(0,) * 3, std=(1,) * 3)
            pixels = crop(Image.fromarray(noise(index, shape)))
            crops.append(np.rint(pixels.numpy().transpose(1, 2, 0) * 255).astype(np.uint8).ravel())
        arrays[f"timm_{name}"] = np.concatenate(crops)
    return arrays


def mixtures():
    """Mixes pictures and targets as timm's Mixup and torchvision's v2.MixUp do, and draws their boxes of CutMix."""
    from unittest import mock

    from torchvision.transforms import v2

    boxes, mixed = [], []
    for index, (share, row, column) in enumerate(SHARES):
        height, width = SHAPES[index]
        images = (
            torch.from_numpy(np.stack([noise(index, (6, 6)), noise(index + 1, (6, 6))])).permute(0, 3, 1, 2).float()
        )
        transform = v2.MixUp(num_classes=2)
        params = {"labels": torch.tensor([0, 1]), "batch_size": 2, "lam": share, "labels_getter": None}
        mixed.append(transform.transform(images.clone(), params).permute(0, 2, 3, 1).numpy())
        drawn = [torch.tensor([column]), torch.tensor([row])]
        cut = v2.CutMix(num_classes=2)
        with mock.patch.object(cut, "_dist") as dist, mock.patch("torch.randint", side_effect=drawn):
            dist.sample.return_value = torch.tensor([share])
            params = cut.make_params([torch.zeros(2, 3, height, width)])
        left, top, right, bottom = params["box"]
        boxes.append((top, bottom, left, right))
    return {"cutmix": np.array(boxes), "mixup": np.array(mixed)}


if __name__ == "__main__":
    np.savez_compressed(HERE, **by_torchvision(), **by_timm(), **mixtures())

"""Images that are wrong or broken: one line that names them, and nothing half-written."""

import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax import batch_indices

sys.path.insert(0, str(Path(__file__).parent.parent))
from command_line import contents, refused, truncate


def colours(seed, height=6, width=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def images(root, sizes=((6, 8),), each=2):
    """Writes two classes of `each` train images and one test image each."""
    for label, name in enumerate(("cat", "dog")):
        for part, count in (("train", each), ("test", 1)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                seed = 100 * label + index + 50 * (part == "test")
                colours(seed, *sizes[index % len(sizes)]).save(root / part / name / f"{index}.png")


def bomb(path):
    """Makes only the header of a PNG of 60,000 × 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def link(path, target):
    path.unlink()
    path.symlink_to(target)


DATA = {
    "one class": (
        lambda root: [shutil.rmtree(root / part / "dog") for part in ("train", "test")],
        "'images/train' must have a folder for each of at least 2 classes; it has 1",
    ),
    "class without images": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "'images/train/dog' has no image",
    ),
    "other classes": (
        lambda root: (root / "test" / "dog").rename(root / "test" / "eel"),
        "'images': classes must be the same in 'train' and 'test'; in one alone: 'dog', 'eel'",
    ),
    "no image inside": (
        lambda root: (root / "train" / "cat" / "0.png").write_text("a cat"),
        "'images/train/cat/0.png': not an image that Pillow reads",
    ),
    "cut short": (
        lambda root: truncate(root / "train" / "dog" / "1.png", 60),
        "'images/train/dog/1.png': image file is truncated",
    ),
    "huge": (
        lambda root: bomb(root / "train" / "dog" / "0.png"),
        "'images/train/dog/0.png': more than 89,478,485 pixels",
    ),
    "loop": (
        lambda root: link(root / "train" / "cat" / "1.png", "1.png"),
        "'images/train/cat/1.png': Too many levels of symbolic links",
    ),
    "dangling link": (
        lambda root: link(root / "train" / "cat" / "1.png", "nowhere.png"),
        "'images/train/cat/1.png': No such file or directory",
    ),
}


@pytest.mark.parametrize("wrong", DATA)
def test_data_that_are_wrong_get_one_line(wrong, here, door):
    change, message = DATA[wrong]
    images(here / "images")
    change(here / "images")
    before = contents(here)
    assert refused(door, "--data", "folder:images", "--batch-size", "2", "--strict").startswith(message)
    assert contents(here) == before


KINDS = ["--data", "folder:images", "--batch-size", "4", "--out"]


@pytest.fixture
def kinds(here, monkeypatch):
    """Makes a folder of images of all kinds, which are streamed; mean and std are those of the first image."""
    monkeypatch.setattr("training_flax.data.source.MOMENTS_LIMIT", 1)
    images(here / "images", sizes=((6, 8), (9, 7)), each=4)
    cat, image = here / "images" / "train" / "cat", colours(1, 12, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(cat / "turned.jpg", exif=exif)
    image.save(cat / "animated.gif", save_all=True, append_images=[colours(2, 12, 10)])
    image.resize((1, 1)).save(cat / "pixel.png")
    for mode, end in (("L", "png"), ("CMYK", "tif"), ("P", "gif"), ("RGBA", "png"), ("LA", "png")):
        image.convert(mode).save(cat / f"{mode}.{end}")
    return here / "images"


@pytest.mark.slow
def test_images_of_all_kinds_train(kinds, door):
    code, out, err = door(*KINDS, "run", "--steps", "4")
    assert (code, err) == (0, "")
    assert "16 train and 2 test images of 32×32×3, 2 classes" in out


@pytest.mark.slow
def test_an_image_found_broken_in_the_middle_of_a_run(kinds, here, door):
    """The state before the broken image is saved; after a repair the run ends with the weights of an unbroken one."""
    command = ["--steps", "8", *KINDS]
    assert door(*command, "whole")[0] == 0
    files = [path for name in ("cat", "dog") for path in sorted((kinds / "train" / name).iterdir())]
    path = next(path for i in batch_indices(2, 4, 16, 0) if (path := files[i]).stem.isdigit())
    good = path.read_bytes()
    truncate(path, 60)
    for _ in range(2):  # in the second run it is the first image
        message = refused(door, *command, "run")
        assert message.startswith(f"'{path.relative_to(here)}': image file is truncated")
        assert message.endswith("; the state after step 2 is saved in run")
    path.write_bytes(good)
    code, out, err = door(*command, "run")
    assert (code, err) == (0, "")
    assert "going on after step 2 of 8" in out
    weights = [(here / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    lines = [(here / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "whole")]
    assert len(lines[0]) == len(lines[1])

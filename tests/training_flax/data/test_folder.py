import os
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax import Split, open_dataset
from training_flax.data.dataset import StreamedSplit
from training_flax.files.layout import TREE


def colours(seed, height=6, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, seed=0, height=6, width=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(seed, height, width)).save(path)


@pytest.fixture
def small(tmp_path):
    """Writes two classes of two train images and one test image each, all of one size."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(2):
            save(tmp_path / "train" / name / f"{index}.png", 10 * label + index)
        save(tmp_path / "test" / name / "0.png", 10 * label + 9)
    return tmp_path


def message(path, **options):
    """Returns the line that reports what is wrong with a folder; below it there may be a tree of what is expected."""
    start = time.process_time()
    with pytest.raises(ValueError) as error:
        open_dataset(f"folder:{path}", **options)
    assert time.process_time() - start < 5
    first, *rest = str(error.value).split("\n")
    assert tuple(rest) in ((), TREE)
    return first


def test_images_of_one_size_are_in_memory(small):
    dataset = open_dataset(f"folder:{small}")
    assert isinstance(dataset.train, Split)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0, 1])
    np.testing.assert_array_equal(dataset.train.images, [colours(seed) for seed in (0, 1, 10, 11)])
    np.testing.assert_array_equal(dataset.test.images, [colours(seed) for seed in (9, 19)])
    np.testing.assert_allclose(dataset.mean, dataset.train.images.mean((0, 1, 2)) / 255, atol=1e-12)
    np.testing.assert_allclose(dataset.std, dataset.train.images.std((0, 1, 2)) / 255, atol=1e-12)


def test_images_of_many_sizes_are_streamed(small):
    save(small / "train" / "dog" / "0.png", 10, height=1, width=1)
    dataset = open_dataset(f"folder:{small}")
    assert isinstance(dataset.train, StreamedSplit)
    assert dataset.image_shape == dataset.test.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.train.read(1), colours(1))
    np.testing.assert_array_equal(dataset.train.read(2), colours(10, 1, 1))
    assert open_dataset(f"folder:{small}", default_image_size=20).image_shape == (20, 20, 3)
    assert open_dataset(f"folder:{small}", image_size=24).image_shape == (24, 24, 3)


def test_a_size_is_given_as_asked(small):
    for size, kind in ((16, StreamedSplit), (6, StreamedSplit)):
        dataset = open_dataset(f"folder:{small}", image_size=size)
        assert isinstance(dataset.train, kind)
        assert dataset.image_shape == (size, size, 3)


def test_the_normalisation_of_streamed_images_is_that_of_their_centres(small, monkeypatch):
    from training_flax.data.decode import centre_crop

    dataset = open_dataset(f"folder:{small}", image_size=5)
    crops = np.array([centre_crop(colours(seed), 5, rule="centred") for seed in (0, 1, 10, 11)]) / 255
    np.testing.assert_allclose(dataset.mean, crops.mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(dataset.std, crops.std((0, 1, 2)), atol=1e-12)
    monkeypatch.setattr("training_flax.data.source.MOMENTS_LIMIT", 2)  # the first and the last
    np.testing.assert_allclose(
        open_dataset(f"folder:{small}", image_size=5).mean, crops[[0, 3]].mean((0, 1, 2)), atol=1e-12
    )


def test_files_of_all_kinds_stand_side_by_side(small):
    image = Image.fromarray(colours(1))
    cat = small / "train" / "cat"
    for file in cat.iterdir():
        file.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(cat / "a.png", exif=exif)
    image.save(cat / "b.JPG")
    image.save(cat / "c.webp", lossless=True)
    image.convert("L").save(cat / "d.png")
    image.convert("CMYK").save(cat / "e.tif")
    image.convert("P").save(cat / "f.gif", save_all=True, append_images=[image.convert("P")])
    image.convert("RGBA").save(cat / "g.png")
    image.convert("I;16").save(cat / "h.png")
    (cat / "notes.txt").write_text("not an image")
    (cat / ".hidden.png").write_text("not an image")
    (cat / "folder.png").mkdir()
    (small / "train" / ".cache").mkdir()
    (small / "train" / "labels.csv").write_text("")
    dataset = open_dataset(f"folder:{small}")
    assert isinstance(dataset.train, Split)
    np.testing.assert_array_equal(dataset.train.labels, [0] * 8 + [1] * 2)
    for index in (0, 2, 4, 6):
        np.testing.assert_array_equal(dataset.train.images[index], colours(1))


def test_val_stands_in_for_test(small):
    (small / "test").rename(small / "val")
    np.testing.assert_array_equal(open_dataset(f"folder:{small}").test.images[0], colours(9))


def test_links_to_files_and_folders_are_followed(small, tmp_path):
    (small / "train" / "dog" / "2.png").symlink_to(small / "test" / "dog" / "0.png")
    (tmp_path / "link").symlink_to(small)
    np.testing.assert_array_equal(open_dataset(f"folder:{tmp_path / 'link'}").train.images[-1], colours(19))


def test_a_home_folder_is_found(small, monkeypatch):
    monkeypatch.setenv("HOME", str(small.parent))
    assert len(open_dataset(f"folder:~/{small.name}").train.labels) == 4


def png_of(width, height):
    """Makes only the header of a PNG, the beginning of a decompression bomb."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def remove(path):
    for child in sorted(path.rglob("*"), reverse=True):
        child.rmdir() if child.is_dir() else child.unlink()
    path.rmdir()


def spoil(part, change):
    return lambda root: change(root / part)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-60])


def loop(path):
    path.unlink()
    path.symlink_to(path)


def dangle(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere.png"))


BROKEN = {
    "no train": (spoil("train", remove), "has no folder 'train'"),
    "no image": (
        spoil("train/cat/0.png", lambda p: [f.unlink() for f in p.parent.iterdir()]),
        "/train/cat' has no image",
    ),
    "other classes": (
        spoil("test/dog", lambda p: p.rename(p.with_name("eel"))),
        "classes must be the same in 'train' and 'test'; in one alone: 'dog', 'eel'",
    ),
    "one class": (
        lambda root: [remove(root / part / "dog") for part in ("train", "test")],
        "/train' must have a folder for each of at least 2 classes; it has 1",
    ),
    "no class": (
        lambda root: [remove(root / p / c) for p in ("train", "test") for c in ("cat", "dog")],
        "at least 2 classes; it has 0",
    ),
    "no image inside": (
        spoil("train/cat/0.png", lambda p: p.write_text("a cat")),
        "0.png': not an image that Pillow reads",
    ),
    "empty file": (spoil("test/dog/0.png", lambda p: p.write_bytes(b"")), "0.png': not an image that Pillow reads"),
    "cut short": (spoil("train/dog/1.png", truncate), "1.png': image file is truncated"),
    "huge": (
        spoil("train/dog/0.png", lambda p: p.write_bytes(png_of(60000, 60000))),
        "0.png': more than 89,478,485 pixels",
    ),
    "large": (
        spoil("test/dog/0.png", lambda p: p.write_bytes(png_of(10000, 10000))),
        "0.png': more than 89,478,485 pixels",
    ),
    "loop": (spoil("train/cat/1.png", loop), "1.png': Too many levels of symbolic links"),
    "dangling": (spoil("train/cat/1.png", dangle), "1.png': No such file or directory"),
    "class loop": (lambda root: (root / "train" / "eel").symlink_to("eel"), "eel': Too many levels of symbolic links"),
    "part is a file": (lambda root: (remove(root / "test"), (root / "test").write_text("")), "test': Not a directory"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_folder_gets_one_line(broken, small):
    change, expected = BROKEN[broken]
    change(small)
    assert expected in message(small, strict=True)


@pytest.mark.parametrize("broken", ["no image inside", "empty file", "huge", "large", "loop"])
def test_headers_of_streamed_images_are_looked_at(broken, small):
    change, expected = BROKEN[broken]
    change(small)
    assert expected in message(small, image_size=7, strict=True)


def test_a_streamed_image_that_is_cut_short_is_found_when_it_is_read(small):
    save(small / "train" / "cat" / "0.png", 0, 9, 9)
    dataset = open_dataset(f"folder:{small}")
    truncate(small / "train" / "dog" / "1.png")
    with pytest.raises(ValueError, match=r"1.png': image file is truncated"):
        dataset.train.read(3)


def test_pillows_own_warning_is_not_needed(small):
    (small / "test" / "dog" / "0.png").write_bytes(png_of(10000, 10000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "more than 89,478,485 pixels" in message(small)


def test_a_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert message(tmp_path / "absent") == f"{str(tmp_path / 'absent')!r}: No such file or directory"
    assert message(tmp_path / "file") == f"{str(tmp_path / 'file')!r}: Not a directory"
    assert message(tmp_path / "loop") == f"{str(tmp_path / 'loop')!r}: Too many levels of symbolic links"
    assert message("") == (
        "name the folder: 'folder:PATH' has PATH/CLASS/*, or PATH/train/CLASS/* and PATH/test/CLASS/*"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("part", ["", "train", "train/dog", "train/dog/0.png"])
def test_what_may_not_be_read_is_named(part, small):
    (small / part).chmod(0)
    try:
        assert message(small) == f"{str(small / part)!r}: Permission denied"
    finally:
        (small / part).chmod(0o700)


CIFAR10 = os.environ.get("CIFAR10_JPEG")


@pytest.mark.slow
@pytest.mark.skipif(CIFAR10 is None, reason="CIFAR10_JPEG does not name a folder of CIFAR-10 as JPEGs")
def test_cifar10_opens_in_half_a_minute():
    start = time.perf_counter()
    dataset = open_dataset(f"folder:{CIFAR10}")
    assert time.perf_counter() - start < 30
    assert dataset.train.images.shape == (50_000, 32, 32, 3)
    assert dataset.test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [5000] * 10)
    # These are the published mean and std of the train images; JPEG changes them little.
    np.testing.assert_allclose(dataset.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)
    np.testing.assert_allclose(dataset.std, (0.2470, 0.2435, 0.2616), atol=3e-3)
    ships = sorted((Path(str(CIFAR10)) / "test" / "ship").iterdir())
    with Image.open(ships[0]) as image:
        np.testing.assert_array_equal(dataset.test.images[8000], np.asarray(image))

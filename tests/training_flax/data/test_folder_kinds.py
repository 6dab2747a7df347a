"""Folders of images as they lie on disks: right result and a line that tells what was passed over, or one error."""

import io
import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax import open_dataset
from training_flax.data.decode import read_image, read_size
from training_flax.files.listing import SYSTEM_FOLDERS, find_images


def save(path, seed=0, size=(6, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def classes(root, names=("cat", "dog"), each=2):
    for label, name in enumerate(names):
        for index in range(each):
            save(root / name / f"{index}.png", 10 * label + index)


def opened(root, **options):
    return open_dataset(f"folder:{root}", **options)


def relative(dataset, root):
    return {str(Path(path).relative_to(root)) for path in dataset.passed_over}


PARTS = {
    "train, test": (("train", "test"), "test"),
    "train, val": (("train", "val"), "val"),
    "train, valid": (("train", "valid"), "valid"),
    "train, validation": (("train", "validation"), "validation"),
    "training, testing": (("training", "testing"), "testing"),
    "Train, Test": (("Train", "Test"), "Test"),
    "TRAIN, Validation": (("TRAIN", "Validation"), "Validation"),
    "all of them": (("train", "validation", "valid", "val", "test"), "test"),
    "val and valid": (("train", "valid", "val"), "val"),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_have_many_names(case, tmp_path):
    names, tested = PARTS[case]
    for count, name in enumerate(names):
        classes(tmp_path / name, each=count + 1)
    dataset = opened(tmp_path)
    assert len(dataset.train.labels) == 2
    assert len(dataset.test.labels) == 2 * (names.index(tested) + 1)
    assert dataset.notes == ()
    assert (dataset.validation is not None) == (case == "all of them")


def test_parts_of_any_name_are_taken_when_asked(tmp_path):
    classes(tmp_path / "fold1", each=1)
    classes(tmp_path / "fold2", each=3)
    classes(tmp_path / "test", each=2)
    dataset = opened(tmp_path, train_split="fold2", test_split="fold1")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (6, 2)
    assert len(opened(tmp_path, train_split="fold2").test.labels) == 4
    with pytest.raises(ValueError, match="has no folder 'train'; --train-split NAME takes a folder of another name"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"fold9': No such file"):
        opened(tmp_path, train_split="fold2", test_split="fold9")
    with pytest.raises(ValueError, match="test_split is for 'folder:PATH' and 'tfds:NAME'; 'digits' has its own"):
        open_dataset("digits", test_split="test")


def flat(root):
    for index in range(3):
        save(root / "test" / f"{index}.png")


def in_a_folder_of_its_own(root):
    for index in range(3):
        save(root / "test" / "unknown" / f"{index}.png")


def linked(root):
    flat(root)
    (root / "test").rename(root / "elsewhere")
    (root / "test").symlink_to(root / "elsewhere")


UNLABELLED = {"flat": flat, "in a folder of its own": in_a_folder_of_its_own, "linked": linked}


@pytest.mark.parametrize("case", UNLABELLED)
@pytest.mark.parametrize("val", ["val", "validation"])
def test_a_test_part_without_labels_is_told_and_can_be_predicted(case, val, tmp_path):
    for part in ("train", val):
        classes(tmp_path / part)
    UNLABELLED[case](tmp_path)
    dataset = opened(tmp_path)
    assert len(dataset.test.labels) == 4
    assert dataset.notes == (
        f"'test' has 3 images without labels, {val!r} is the test part; "
        f"python -m training_flax.predict --run RUN {tmp_path / 'test'}",
    )
    assert len(find_images([str(tmp_path / "test")], [])) == 3


@pytest.mark.parametrize("case", UNLABELLED)
def test_beside_a_test_part_without_labels_alone_a_part_is_held_out(case, tmp_path):
    classes(tmp_path / "train", each=5)
    UNLABELLED[case](tmp_path)
    dataset = opened(tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (8, 2)
    assert dataset.notes == (
        "'test' has 3 images without labels and is passed over; "
        f"python -m training_flax.predict --run RUN {tmp_path / 'test'}",
        "split 80/20, seed 0: 8 train, 2 test",
    )
    if case != "in a folder of its own":
        with pytest.raises(ValueError, match=r"has no folder for each class, .* and predict them later"):
            opened(tmp_path, test_split="test")


DEEP = {
    "one level": ["cat/more/9.png"],
    "many levels": ["cat/a/b/c/d/e/9.png", "dog/x/9.png"],
    "a name that sorts between": ["cat/0/5.png", "cat/z/5.png", "cat/1.PNG"],
    "the same name in several": ["cat/a/0.png", "cat/b/0.png", "dog/a/0.png"],
}


@pytest.mark.parametrize("case", DEEP)
def test_images_deeper_in_a_class_count(case, tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    for number, name in enumerate(DEEP[case]):
        save(tmp_path / "train" / name, 100 + number)
    dataset = opened(tmp_path)
    # torchvision's order: each class's folders by path, and their files by name.
    expected = []
    for label, name in enumerate(("cat", "dog")):
        for place, _, files in sorted(os.walk(tmp_path / "train" / name)):
            expected += [(str(Path(place, file)), label) for file in sorted(files)]
    assert dataset.train.labels.tolist() == [label for _, label in expected]
    for image, (path, _) in zip(dataset.train.images, expected, strict=True):
        np.testing.assert_array_equal(image, read_image(path, path))
    assert dataset.passed_over == ()


def test_a_class_may_hold_folders_alone_and_links_to_itself(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "sub" / "0.png")
    (tmp_path / "train" / "cat" / "sub" / "up").symlink_to(tmp_path / "train" / "cat")
    assert len(opened(tmp_path).train.labels) == 2


def link_to(target):
    return lambda root, place: place.symlink_to(root / target)


def nested_class(root, place):
    (root / "train" / "dog").rename(place)
    (root / "train" / "dog").symlink_to(place)


def classes_elsewhere(root, place):
    (root / "train" / "dog").rename(root / "store")
    (root / "train" / "dog").symlink_to(root / "store")
    place.symlink_to(root / "store")


LEAD_OUT = {
    "to the part": link_to("train"),
    "to another class": link_to("train/dog"),
    "into another class": link_to("train/dog/more"),
    "to the root": link_to(""),
    "far above": lambda root, place: place.symlink_to("/"),
    "to the same class of tests": link_to("test/cat"),
    "to another class of tests": link_to("test/dog"),
    "a class in a class": nested_class,
    "classes that are links": classes_elsewhere,
}


@pytest.mark.parametrize("case", LEAD_OUT)
def test_links_to_other_classes_are_passed_over(case, tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    save(tmp_path / "train" / "dog" / "more" / "7.png", 7)
    place = tmp_path / "train" / "cat" / "up"
    LEAD_OUT[case](tmp_path, place)
    dataset = opened(tmp_path)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.passed_over == (str(place),)
    with pytest.raises(ValueError, match=r"train/cat/up' is no image of a class; without --strict it is passed over"):
        opened(tmp_path, strict=True)


def test_links_to_images_of_no_class_are_followed(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    save(tmp_path / "store" / "more" / "7.png", 7)
    (tmp_path / "train" / "cat" / "stored").symlink_to(tmp_path / "store")
    dataset = opened(tmp_path)
    assert (dataset.train.labels.tolist(), dataset.passed_over) == ([0, 0, 0, 1, 1], ())


def test_one_folder_cannot_be_two_classes(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
        (tmp_path / part / "eel").symlink_to("dog")
    with pytest.raises(ValueError, match=r"train/dog' and '.*train/eel' are one folder, and cannot be two classes$"):
        opened(tmp_path)


def test_parts_that_are_one_folder(tmp_path):
    classes(tmp_path / "train")
    (tmp_path / "val").symlink_to("train")
    assert opened(tmp_path).notes == ("4 of the test images are train images too: 'val' has folders of 'train'",)
    assert opened(tmp_path, test_split="train").notes[0].startswith("4 of the test images are train images too")
    (tmp_path / "val").unlink()
    classes(tmp_path / "val", names=("cat",))
    (tmp_path / "val" / "dog").symlink_to(tmp_path / "train" / "dog")
    assert opened(tmp_path).notes == ("2 of the test images are train images too: 'val' has folders of 'train'",)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("cat",), "folders of 1 of 2 classes, and 0 others"),
        (("cat", "dog", "eel"), "folders of 2 of 2 classes, and 1 others"),
        (("dog", "eel"), "folders of 1 of 2 classes, and 1 others"),
    ],
)
def test_the_test_part_is_the_one_with_the_classes(names, told, tmp_path):
    for part in ("train", "val"):
        classes(tmp_path / part)
    classes(tmp_path / "test", names=names, each=3)
    dataset = opened(tmp_path)
    assert len(dataset.test.labels) == 4
    [note] = dataset.notes
    assert note.startswith(f"'test' has {told}, 'val' is the test part; python -m training_flax.predict --run RUN ")
    with pytest.raises(ValueError, match="classes must be the same in 'train' and 'test'; in one alone: "):
        opened(tmp_path, test_split="test")


@pytest.mark.parametrize(("train", "test"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_are_compared_as_unicode_means_them(train, test, tmp_path):
    names = ("caf\u00e9", "\u5bff\u53f8", "zebra")
    for part, form in (("train", train), ("test", test)):
        classes(tmp_path / part, names=[unicodedata.normalize(form, name) for name in names], each=2)
    dataset = opened(tmp_path)
    assert {unicodedata.normalize("NFC", name) for name in dataset.class_names} == set(names)
    for part in (dataset.train, dataset.test):
        for label, name in enumerate(dataset.class_names):
            seed = 10 * names.index(unicodedata.normalize("NFC", name))
            expected = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
            np.testing.assert_array_equal(part.images[2 * label], expected)
    classes(tmp_path / "train", names=[unicodedata.normalize(form, names[0]) for form in ("NFC", "NFD")])
    with pytest.raises(ValueError, match=r"two classes have the name 'café', spelled in two ways; rename one$"):
        opened(tmp_path)


@pytest.mark.parametrize("option", ["train_split", "test_split", "validation_split"])
@pytest.mark.parametrize("value", ["", " "])
def test_a_part_without_a_name_is_refused(option, value, tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    with pytest.raises(ValueError, match=f"^{option} must name a folder in '.*'; given '{value}'$"):
        opened(tmp_path, **{option: value})


@pytest.mark.parametrize("name", ["digits", "fake:4x4x3:2:8", "tfds:plain"])
def test_strict_is_for_folders(name):
    with pytest.raises(ValueError, match=f"^strict is for 'folder:PATH'; '{name}' has no files that are passed over"):
        open_dataset(name, strict=True)


def text(path):
    path.write_text("not an image")


def writing(data):
    return lambda path: path.write_bytes(data)


def heic():
    return b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100)


def made_by_a_system(path):
    path.mkdir()
    save(path / "SYNOFILE_THUMB_M.jpg")


NO_IMAGES = {
    "features.h5": ("features.h5", writing(b"\x89HDF\r\n\x1a\n")),
    "features.h5 called .png": ("features.png", writing(b"\x89HDF\r\n\x1a\n" + bytes(99))),
    "HEIC": ("IMG_0001.HEIC", writing(heic())),
    "HEIC called .jpg": ("IMG_0001.jpg", writing(heic())),
    "text called .png": ("a.png", text),
    "an empty file": ("a.jpg", writing(b"")),
    "a page of a server": ("a.jpg", writing(b"<!DOCTYPE html><html><body>404</body></html>")),
    "a pointer of git-lfs": ("a.jpg", writing(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    "a list": ("labels.csv", text),
    "a Windows cache": ("Thumbs.db", writing(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))),
    "a drawing": ("a.svg", text),
    "a video": ("a.mp4", writing(b"\0\0\0\x20ftypisom" + bytes(100))),
    "a RAW photograph": ("a.cr3", writing(b"\0\0\0\x18ftypcrx " + bytes(100))),
    "PDF called .png": ("a.png", writing(b"%PDF-1.4\n")),
    "an archive": ("a.zip", writing(b"PK\3\4" + bytes(30))),
    "a pipe": ("a.png", os.mkfifo),
    "thumbnails of a NAS": ("@eaDir", made_by_a_system),
    "a bin of a NAS": ("#recycle", made_by_a_system),
    "an archive's own": ("__MACOSX", made_by_a_system),
}


@pytest.mark.parametrize("deep", [False, True], ids=["in a class", "deeper"])
@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_image_is_passed_over_and_listed(case, deep, tmp_path):
    name, make = NO_IMAGES[case]
    for part in ("train", "test"):
        classes(tmp_path / part)
    where = tmp_path / "train" / "cat" / ("deep" if deep else "")
    where.mkdir(exist_ok=True)
    make(where / name)
    dataset = opened(tmp_path)
    assert len(dataset.train.labels) == 4
    assert relative(dataset, tmp_path) == {str((where / name).relative_to(tmp_path))}
    with pytest.raises(ValueError) as error:
        opened(tmp_path, strict=True)
    assert repr(str(where / name)) in str(error.value)
    assert "\n" not in str(error.value)
    # Streamed images are listed by the same rule, and the hash of the files does not know what is passed over.
    streamed = opened(tmp_path, image_size=5)
    assert streamed.passed_over == dataset.passed_over
    assert streamed.train_files == dataset.train_files


@pytest.mark.parametrize("name", sorted(SYSTEM_FOLDERS | {"@eaDir", "System Volume Information", "$RECYCLE.BIN"}))
def test_folders_that_systems_make_are_no_classes(name, tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    save(tmp_path / "train" / name / "0.png")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert name not in {Path(path).parent.name for path in find_images([str(tmp_path / "train")], [])}


def test_images_beside_the_class_folders_are_listed(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    save(tmp_path / "train" / "stray.png")
    (tmp_path / "train" / "readme.txt").write_text("")
    assert relative(opened(tmp_path), tmp_path) == {"train/stray.png"}


def test_a_class_of_no_images_at_all_is_an_error(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    for path in (tmp_path / "test" / "dog").iterdir():
        path.write_text("not an image")
    with pytest.raises(ValueError, match=r"test/dog' has no image$"):
        opened(tmp_path)


def test_of_very_many_files_only_the_names_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("training_flax.data.folder.HEADER_LIMIT", 3)
    for part in ("train", "test"):
        classes(tmp_path / part)
    text(tmp_path / "train" / "cat" / "9.png")
    text(tmp_path / "train" / "cat" / "notes.txt")
    with pytest.raises(ValueError, match=r"9.png': not an image"):
        opened(tmp_path)


NAMES = {
    "two formulas": ((b"$1_$5", b"$10_$20"), ("$10_$20", "$1_$5")),
    "a wrong formula": ((rb"$\frac{$", b"b"), (r"$\frac{$", "b")),
    "Latin-1": ((b"caf\xe9", b"dog"), ("caf\\xe9", "dog")),
    "Shift JIS": ((b"\x94L", b"\x8c\xa2"), ("\\x8c\\xa2", "\\x94L")),
    "half of a character": ((b"a\xc3", b"b\xe2\x82"), ("a\\xc3", "b\\xe2\\x82")),
    "other letters": (("猫".encode(), "größe".encode()), ("größe", "猫")),
    "an escape": ((b"\x1b[31mred", b"b"), ("\x1b[31mred", "b")),
    "lines": ((b"a\nb", b"b"), ("a\nb", "b")),
}


def bytes_classes(root, names):
    for part in (b"train", b"test"):
        for label, name in enumerate(names):
            for index in range(2):
                save(root / os.fsdecode(part) / os.fsdecode(name) / f"{index}.png", 10 * label + index)


@pytest.mark.parametrize("case", NAMES)
def test_names_of_classes_are_text(case, tmp_path):
    given, expected = NAMES[case]
    bytes_classes(tmp_path, given)
    dataset = opened(tmp_path)
    assert dataset.class_names == expected
    json.dumps(dataset.class_names, ensure_ascii=False).encode()
    order = sorted(given, key=os.fsdecode)
    for label, name in enumerate(order):
        seed = 10 * given.index(name)
        np.testing.assert_array_equal(
            dataset.train.images[2 * label], np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        )


def test_two_names_that_become_one_are_refused(tmp_path):
    bytes_classes(tmp_path, [b"caf\xe9", b"caf\\xe9"])
    with pytest.raises(ValueError, match=r"two classes have the name 'caf\\\\xe9' once bytes that are no UTF-8"):
        opened(tmp_path)


def tiff_header(*tags):
    """Makes the block of EXIF with these tags (number, type, count, 4 bytes of value or offset), little-endian."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def orientation(value=6, kind=3, count=1):
    if kind == 2:  # text
        return (0x0112, 2, 2, b"%d\0\0\0" % value)
    return (0x0112, kind, count, struct.pack("<I", value))


RATIONAL = (0x011A, 5, 1, struct.pack("<I", 38))  # its numbers stand behind the block
PICTURE = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)


def with_exif(kind, exif, **options):
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def png_with(*chunks, behind=()):
    """Makes a PNG of `PICTURE` with chunks before its pixels, and behind them."""
    rows = b"".join(b"\0" + row.tobytes() for row in PICTURE)
    header = struct.pack(">IIBBBBB", PICTURE.shape[1], PICTURE.shape[0], 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *behind, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("clear", [0x1234, 0x1235, 0xFFFF, None])
def test_the_transparent_level_of_a_grey_png_is_black(depth, clear):
    levels = np.array([[0x1234, 0x1235], [0xFFFF, 0xABCD]]) >> (16 - depth)
    clear = None if clear is None else clear >> (16 - depth)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in levels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, depth, 0, 0, 0, 0))]
    chunks += [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )
    expected = np.where(levels == clear, 0, levels >> (depth - 8))
    np.testing.assert_array_equal(read_both(data), expected[..., None].repeat(3, -1))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
EXIF = {
    "a rational beside it": (tiff_header(orientation(), RATIONAL) + struct.pack("<II", 2**32 - 1, 0), True),
    "a signed rational beside it": (
        tiff_header(orientation(), (0x011A, 10, 1, struct.pack("<I", 38))) + b"\xff" * 8,
        True,
    ),
    "a rational that is cut off": (tiff_header(orientation(), (0x011A, 5, 9, struct.pack("<I", 38))), True),
    "an offset beyond the end": (tiff_header(orientation(), (0x010F, 2, 99, b"\xff\xff\xff\x7f")), True),
    "an offset beyond the end before it": (tiff_header((0x010F, 2, 99, b"\xff\xff\xff\x7f"), orientation()), True),
    "the last offset before it": (tiff_header((0x010F, 2, 9, b"\xfc\xff\xff\xff"), orientation()), True),
    "the last offset before another": (tiff_header((0x010F, 2, 9, b"\xfc\xff\xff\xff"), orientation(9)), False),
    "the last offset before none": (tiff_header((0x010F, 2, 9, b"\xfc\xff\xff\xff")), False),
    "a sub-directory beyond the end": (tiff_header(orientation(), (0x8769, 4, 1, b"\xff\xff\xff\x7f")), True),
    "a sub-directory that is itself": (tiff_header(orientation(), (0x8769, 4, 1, struct.pack("<I", 8))), True),
    "a type that is none": (tiff_header(orientation(), (0x0132, 99, 1, bytes(4))), True),
    "a byte": (tiff_header(orientation(kind=1)), False),
    "a long": (tiff_header(orientation(kind=4)), True),
    "text": (tiff_header(orientation(kind=2)), False),
    "two numbers": (tiff_header(orientation(6 | 6 << 16, count=2)), True),
    "no number": (tiff_header(orientation(count=0)), False),
    "nought": (tiff_header(orientation(0)), False),
    "nine": (tiff_header(orientation(9)), False),
    "65,535": (tiff_header(orientation(65535)), False),
    "no block": (b"Exif\0\0", False),
    "noise": (b"Exif\0\0" + bytes(range(256)), False),
    "half a header": (b"Exif\0\0II*", False),
    "very many entries": (b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(60), False),
}


def read_both(data):
    """Returns the pixels; the header's size must be theirs."""
    pixels = read_image(io.BytesIO(data), "x")
    assert read_size(io.BytesIO(data), "x") == pixels.shape[:2]
    return pixels


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of damaged metadata, and goes on
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("case", EXIF)
def test_metadata_never_stops_a_picture(case, kind):
    exif, turned = EXIF[case]
    data = with_exif(kind, exif, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = read_both(data)
    assert pixels.shape == ((7, 4, 3) if turned else (4, 7, 3))
    if kind != "JPEG":
        np.testing.assert_array_equal(pixels, np.rot90(PICTURE, -1) if turned else PICTURE)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)), True),
        (png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 9)), False),
        (png_with(behind=[(b"eXIf", tiff_header(orientation())[6:])]), False),  # which PNG's standard forbids
        (png_with(behind=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6)]), False),
        (png_with((b"tEXt", b"Raw profile type exif\0" + b"\nexif\n 4\nzzzz\n")), False),
        (png_with((b"tEXt", b"Raw profile type exif\0")), False),
        (png_with((b"pHYs", bytes(2))), False),
    ],
)
def test_size_and_pixels_of_pngs_are_turned_by_one_rule(data, turned):
    np.testing.assert_array_equal(read_both(data), np.rot90(PICTURE, -1) if turned else PICTURE)


def spoiled(data, kind):
    """Returns a PNG with a wrong check sum of the chunk of this kind."""
    at = data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def jpeg_with(*segments):
    """Makes a JPEG of `PICTURE` with segments (marker, content) at its beginning."""
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", quality=100)
    data = file.getvalue()
    parts = [b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments]
    return data[:2] + b"".join(parts) + data[2:]


def tiff_with(tag, kind, count, value):
    """Makes a TIFF of `PICTURE`, which is turned, with another value of the tag."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif.get_ifd(0x8769)[0x829A] = 6, "somebody", 1.5, 0.01
    Image.fromarray(PICTURE).save(file, "TIFF", exif=exif.tobytes())
    data = bytearray(file.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    places = range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12)
    (place,) = [place for place in places if struct.unpack_from("<H", data, place)[0] == tag]
    struct.pack_into("<HHII", data, place, tag, kind, count, value)
    return bytes(data)


BROKEN_PARTS = {
    "PNG: a text that fails its check sum": (spoiled(png_with((b"tEXt", b"a\0b")), b"tEXt"), False),
    "PNG: a compressed text of 2 MB": (png_with((b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))), False),
    "PNG: a profile of 2 MB": (png_with((b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21)))), False),
    "PNG: a short gamma": (png_with((b"gAMA", b"")), False),
    "PNG: a broken text before EXIF": (
        spoiled(png_with((b"tEXt", b"a\0b"), (b"eXIf", tiff_header(orientation())[6:])), b"tEXt"),
        True,
    ),
    "PNG: a text of 2 MB behind the pixels": (
        png_with(behind=[(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))]),
        False,
    ),
    "JPEG: a short JFIF": (jpeg_with((0xE0, b"JFIF")), False),
    "JPEG: a short Adobe": (jpeg_with((0xEE, b"Adobe")), False),
    "JPEG: a short Photoshop": (jpeg_with((0xED, b"Photoshop 3.0\0008BIM")), False),
    "JPEG: an index of no pictures": (jpeg_with((0xE2, b"MPF\0" + bytes(9))), False),
    "JPEG: a short Adobe before EXIF": (jpeg_with((0xEE, b"Adobe"), (0xE1, tiff_header(orientation()))), True),
    "TIFF: a maker beyond the end": (tiff_with(0x010F, 2, 9, 2**31 - 1), True),
    "TIFF: a maker of gigabytes": (tiff_with(0x010F, 2, 2**32 - 1, 8), True),
    "TIFF: a resolution beyond the end": (tiff_with(0x011A, 5, 1, 2**30), True),
    "TIFF: a directory of a type that is none": (tiff_with(0x8769, 99, 1, 8), True),
    "TIFF: a directory that is the first": (tiff_with(0x8769, 4, 1, 8), True),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", BROKEN_PARTS)
def test_broken_parts_beside_the_pixels_do_not_stop_them(case):
    data, turned = BROKEN_PARTS[case]
    pixels = read_both(data)
    if case.startswith("JPEG"):
        assert pixels.shape == ((7, 4, 3) if turned else (4, 7, 3))
    else:
        np.testing.assert_array_equal(pixels, np.rot90(PICTURE, -1) if turned else PICTURE)


@pytest.mark.parametrize(
    "data",
    [spoiled(png_with(), b"IHDR"), png_with()[:-40], jpeg_with((0xEE, b"Adobe"))[:-30], jpeg_with()[:30]],
)
def test_broken_pixels_do(data):
    with pytest.raises(ValueError, match=r"^'x': ") as error:
        read_image(io.BytesIO(data), "x")
    assert "\n" not in str(error.value)


def test_a_folder_of_such_pictures_trains_as_any_other(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
        exif = EXIF["a rational beside it"][0]
        save(tmp_path / part / "cat" / "turned.jpg", size=(6, 6), exif=exif)
    dataset = opened(tmp_path)
    assert dataset.train.images.shape == (5, 6, 6, 3)

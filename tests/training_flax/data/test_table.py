"""Tables of images: CSV files as spreadsheets, pandas and competitions write them, and what is wrong with others."""

import numpy as np
import pytest
from PIL import Image

from training_flax import open_dataset, train_command
from training_flax.data.held_out import Draw
from training_flax.data.table import table

COUNT = 5  # images of each class


@pytest.fixture
def root(tmp_path):
    """Writes the images 0.png to 9.png, and a few more of other names."""
    for index in range(2 * COUNT):
        save(tmp_path / f"{index}.png", index)
    return tmp_path


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write(root, text, encoding="utf-8"):
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return f"csv:{root / 'labels.csv'}"


def lines(head="path,label", row="{}.png,{}", names=("cat", "dog"), end="\n"):
    """Returns a table of ten images, of two classes in turn."""
    return end.join([head, *(row.format(index, names[index % 2]) for index in range(2 * COUNT))]) + end


GOOD = {
    "plain": lines(),
    "semicolons": lines("path;label", "{}.png;{}"),
    "tabs": lines("path\tlabel", "{}.png\t{}"),
    "Windows' ends of lines": lines(end="\r\n"),
    "no end of the last line": lines()[:-1],
    "empty lines": lines(end="\n\n"),
    "quotes": lines('"path","label"', '"{}.png","{}"'),
    "spaces": lines("path, label", " {}.png , {} "),
    "quotes behind spaces": lines("path, label", '{}.png, "{}"'),
    "a mark of Excel": "\ufeff" + lines(),
    "columns in another order": lines("label,split_id,path", "{1},7,{0}.png"),
    "an index of pandas": lines(",path,label", "{0},{0}.png,{1}"),
    "a second column of the same": lines("id,image_path,label", "{0},{0}.png,{1}"),
    "ids without an ending": lines("image_id,label", "{},{}"),
    "a heading that is not known": lines("id,breed", "{},{}"),
    "capitals": lines("File Name,Class", "{}.png,{}"),
    "relative to here": lines(row="./{}.png,{}"),
    "Windows' paths": lines(row=".\\{}.png,{}"),
    "a delimiter in a column beside": lines("path;label;note", '{}.png;{};"a;b,c"'),
}
HEADS = [
    *(
        "path,label",
        "file,label",
        "filename,class",
        "image,target",
        "image_id,label",
        "img,category",
        "filepath,labels",
    ),
    *("image path,class name", "FILE,TARGET", "file_name,label_name", "id,label"),
]


@pytest.mark.parametrize("case", [*GOOD, *HEADS])
def test_tables_of_many_kinds_name_the_same_images(case, root):
    dataset = open_dataset(write(root, GOOD.get(case) or lines(case)))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.notes == ("split 80/20, seed 0: 8 train, 2 test",)
    found = {}
    for part in (dataset.train, dataset.test):
        found |= {image.tobytes(): label for image, label in zip(part.images, part.labels, strict=True)}
    for index in range(2 * COUNT):
        pixels = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8)
        assert found[pixels.tobytes()] == index % 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("b", "a"), ("a", "b")),
        (("10", "9"), ("9", "10")),
        (("-1", "1"), ("-1", "1")),
        (("10", "9x"), ("10", "9x")),
        (("zahm", "gro\u0308ße"), ("gr\u00f6ße", "zahm")),
        (("猫", "犬"), ("犬", "猫")),
        (("1.5", "0.5"), ("0.5", "1.5")),
    ],
)
def test_labels_are_numbers_or_names(names, expected, root):
    assert open_dataset(write(root, lines(names=names))).class_names == expected


def parts(root, column, values, **options):
    text = "\n".join(
        [f"path,label,{column}", *(f"{index}.png,{index // 2 % 2},{values[index % 2]}" for index in range(2 * COUNT))]
    )
    return open_dataset(write(root, text), **options)


@pytest.mark.parametrize("column", ["split", "part", "fold", "Set"])
@pytest.mark.parametrize("values", [("train", "test"), ("Training", "Testing"), ("train", "val"), ("train", "valid")])
def test_a_column_of_parts_is_the_split(column, values, root):
    dataset = parts(root, column, values)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (5, 5)
    assert dataset.validation is None
    assert dataset.notes == ()
    np.testing.assert_array_equal(dataset.test.labels, [0, 1, 0, 1, 0])


def test_three_parts_and_a_part_that_is_left_out(root):
    text = ["path,label,split"]
    text += [f"{index}.png,{index % 2},{('train', 'train', 'val', 'test', 'test')[index // 2]}" for index in range(10)]
    name = write(root, "\n".join(text))
    dataset = open_dataset(name)
    assert [len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)] == [4, 2, 4]
    assert open_dataset(name, validation_split="none").validation is None
    with pytest.raises(ValueError, match=r"^validation_split is for 'folder:PATH', and 'csv:.*' is none; given 'x'$"):
        open_dataset(name, validation_split="x")
    with pytest.raises(ValueError, match=r"^validation_share is for data without a validation part, and 'csv:"):
        open_dataset(name, draw=Draw(validation_share=0.1))


def test_images_of_a_competition_stand_in_a_folder_beside(root):
    for index in range(2 * COUNT):
        (root / "train_images").mkdir(exist_ok=True)
        (root / f"{index}.png").rename(root / "train_images" / f"{index}.png")
    (root / "test_images").mkdir()
    dataset = open_dataset(write(root, lines("id,label", "{},{}")))
    assert dataset.notes == ("images are in 'train_images'", "split 80/20, seed 0: 8 train, 2 test")


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png", ".JPG", ".webp", ".tif"])
def test_endings_are_found(ending, tmp_path):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"{name}{ending}", ord(name))
    dataset = open_dataset(write(tmp_path, "id,label\na,1\nb,2\nc,1\nd,2\n"))
    assert len(dataset.train.labels) == 2


def test_an_absolute_path_and_a_link_are_followed(root):
    (root / "link.png").symlink_to(root / "0.png")
    rows = [f"{root / '1.png'},a", "link.png,a", "2.png,b", "3.png,b"]
    assert len(open_dataset(write(root, "\n".join(["path,label", *rows]))).train.labels) == 2


def test_rows_that_repeat_others_count_once(root):
    name = write(root, lines() + "0.png,cat\n./0.png,cat\n1,dog\n")
    assert open_dataset(name).notes[0] == "3 rows repeat others, left out"
    assert open_dataset(write(root, lines() + "0.png,cat\n")).notes[0] == "1 row repeats another one, left out"


WRONG = {
    "empty": ("", "it has no row of an image; its first line names the columns, such as path,label"),
    "a head alone": ("path,label\n", "it has no row of an image"),
    "no head": (
        lines("0.png,cat"),
        "its first line must name a column of paths (path, file, image, image_id, …); it has",
    ),
    "no label": (
        "path,a,b\n0.png,x,y\n",
        "must name a column of labels (label, class, target, …); it has 'path', 'a', 'b'",
    ),
    "one column": ("path\n0.png\n", "must name a column of labels"),
    "a row with too few columns": (lines() + "0.png\n", "line 12 has 1 column, and the first 2"),
    "a row with too many": (lines() + "0.png,cat,\n", "line 12 has 3 columns, and the first 2"),
    "a row without a label": (lines() + "0.png,\n", "line 12 has no label"),
    "a row without a path": (lines() + ",cat\n", "line 12 has no path"),
    "a part that is none": (
        lines("path,label,fold", "{}.png,{},3"),
        "line 2: the part must be train, test or val; given '3'",
    ),
    "a row without a part": ("path,label,split\n0.png,a,\n", "line 2 has no part"),
    "one missing image": (lines() + "x.png,cat\n", "1 of 11 images is missing, 'x.png' in line 12"),
    "many missing images": (
        lines() + "\nx.png,cat\ny.png,cat\n",
        "2 of 12 images are missing, the first is 'x.png' in line 13",
    ),
    "all missing": ("path,label\nx.png,a\ny.png,b\n", "2 of 2 images are missing, the first is 'x.png' in line 2"),
    "a folder": (lines() + "sub,cat\n", "1 of 11 images is missing, 'sub'"),
    "a zero byte": (lines() + "a\0b,cat\n", "line"),
    "an address": (
        lines() + "https://example.org/a.jpg,cat\n",
        "1 of 11 images is missing, 'https://example.org/a.jpg'",
    ),
    "two labels": (lines() + "0.png,dog\n", "'0.png' has the label 'cat' in line 2, 'dog' in 12"),
    "two parts": (
        "path,label,split\n0.png,a,train\n0.png,a,test\n",
        "'0.png' has the part 'train' in line 2, 'test' in 3",
    ),
    "one class": (lines(names=("cat", "cat")), "there must be at least 2 classes; it has one, 'cat'"),
    "a class for tests alone": (
        "path,label,split\n0.png,a,train\n1.png,b,train\n2.png,c,test\n",
        "class 'c' has no train image",
    ),
    "tests alone": ("path,label,split\n0.png,a,test\n1.png,b,test\n", "class 'a' has no train image"),
    "an open quote": (lines() + '"0.png,cat\n', "unexpected end of data"),
    "a column beyond reason": (lines() + "a" * 200_000 + ",cat\n", "field larger than field limit"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_table_takes_one_line(case, root):
    text, expected = WRONG[case]
    (root / "sub").mkdir()
    with pytest.raises(ValueError) as error:
        open_dataset(write(root, text))
    assert str(error.value).startswith(f"{str(root / 'labels.csv')!r}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_files_that_are_no_tables_of_images(root):
    with pytest.raises(ValueError, match=r"^name the table: 'csv:FILE' has a line of path and label for each image$"):
        table("")
    with pytest.raises(ValueError, match=r"absent.csv': No such file or directory$"):
        table(str(root / "absent.csv"))
    with pytest.raises(ValueError, match=r": Is a directory$|a folder"):
        table(str(root))
    with pytest.raises(ValueError, match=r"labels.csv': line 2 is not UTF-8; save the table as CSV in UTF-8$"):
        open_dataset(write(root, lines(names=("größe", "dog")), "latin-1"))
    with pytest.raises(ValueError, match=r"labels.csv': line 1 is not UTF-8; save the table as CSV in UTF-8$"):
        open_dataset(write(root, lines(), "utf-16"))
    (root / "3.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"3.png': not an image that Pillow reads$"):
        open_dataset(write(root, lines()))
    with pytest.raises(ValueError, match=r"^strict is for 'folder:PATH'"):
        open_dataset(write(root, lines()), strict=True)


@pytest.mark.slow
def test_a_table_trains_and_a_wrong_one_is_named(root, capsys):
    name = write(root, lines())
    network = ["--arch", "resnet20", "--width", "4", "--batch-size", "4", "--steps", "2", "--out", str(root / "run")]
    assert train_command.main([*network, "--data", name]) == 0
    assert "split 80/20, seed 0: 8 train, 2 test" in capsys.readouterr().out
    assert train_command.main([*network, "--data", f"csv:{root / 'absent.csv'}", "--out", str(root / "other")]) == 2
    assert capsys.readouterr().err == f"train.py: error: {str(root / 'absent.csv')!r}: No such file or directory\n"

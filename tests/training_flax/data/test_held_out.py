"""Parts held out by seed and share: how many of each class, which ones, and the same ones again."""

import csv

import numpy as np
import pytest
from PIL import Image

from training_flax import TrainConfig, open_dataset, plan
from training_flax.data.built_in import digits
from training_flax.data.held_out import Draw, read_split, with_parts, write_split
from training_flax.data.source import Sources, of_files, sum_of_files
from training_flax.data.stratified import held_out_of
from training_flax.run.folder import write_config
from training_flax.run.plan import images_of_run


def sources(counts, test=None):
    """Makes sources of files that need not be there: counts[label] images of each class."""
    names = [f"{label}/{index}.png" for label, count in enumerate(counts) for index in range(count)]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    sizes = {name: 100 + place for place, name in enumerate(names)}
    classes = tuple(f"class {label}" for label in range(len(counts)))
    return Sources(of_files(names, names, labels, sizes), test, classes)


def counts_of(source, classes):
    return np.bincount(source.labels, minlength=classes).tolist()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.25, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("examples", [*range(8), 99, 100, 101, 1000])
def test_shares_are_within_one_image_and_leave_one(examples, share):
    count = held_out_of(examples, share)
    assert abs(count - share * examples) <= 1
    assert count >= (examples >= 2)
    assert examples - count >= (examples >= 1)


# Images of each class, then those of the test and the validation part, with 0.2 and 0.25 of the rest.
SIZES = {
    "1 to 7": ([1, 2, 3, 4, 5, 6, 7], [0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 2]),
    "unbalanced": ([1000, 10, 3], [200, 2, 1], [200, 2, 1]),
    "equal": ([300, 300], [60, 60], [60, 60]),
    "one image beside many": ([1, 500], [0, 100], [0, 100]),
}


@pytest.mark.parametrize("case", SIZES)
def test_parts_are_stratified_and_are_the_whole(case):
    counts, tests, validations = SIZES[case]
    whole = sources(counts)
    parted = with_parts("x", whole, Draw(0.2, 0.25))
    assert counts_of(parted.test, len(counts)) == tests
    assert counts_of(parted.validation, len(counts)) == validations
    parts = [parted.train, parted.validation, parted.test]
    names = [name for part in parts for name in part.names]
    assert sorted(names) == sorted(whole.train.names)
    for part in parts:
        assert [int(name.split("/")[0]) for name in part.names] == part.labels.tolist()
        assert part.files == sum_of_files(part.names)
        assert part.bytes == sum(part.sizes)
    assert sum(part.bytes for part in parts) == whole.train.bytes
    assert parted.drawn == {"train": parts[0].names, "validation": parts[1].names, "test": parts[2].names}


def drawn(draw, counts=(40, 30)):
    return with_parts("x", sources(counts), draw).drawn


def test_the_same_seed_draws_the_same_images_and_another_one_others():
    first = drawn(Draw(seed=3))
    assert first == drawn(Draw(seed=3))
    assert first != drawn(Draw(seed=4))
    # The draw of validation does not change that of the tests.
    assert drawn(Draw(seed=3, validation_share=0.1))["test"] == first["test"]
    # These names were drawn when the rule was written; another rule would move images from train to test.
    assert drawn(Draw(), (10, 5))["test"] == ("0/1.png", "0/5.png", "1/3.png")


@pytest.mark.slow
def test_every_image_is_as_likely_to_be_held_out():
    times = np.zeros(50)
    for seed in range(400):
        times += [name in drawn(Draw(seed=seed), (50, 2))["test"] for name in sources((50, 2)).train.names[:50]]
    # Binomial: 400 draws at 0.2 are 80 ± 8, and five deviations are exceeded by one in a million.
    assert abs(times - 80).max() < 5 * 8


def test_the_line_of_the_header_says_shares_seed_and_numbers():
    assert with_parts("x", sources((300, 300)), Draw()).notes == ("split 80/20, seed 0: 480 train, 120 test",)
    assert with_parts("x", sources((300, 300)), Draw(0.1, 0.1, 7)).notes == (
        "split 81/9/10, seed 7: 486 train, 54 validation, 60 test",
    )
    test = sources((3, 3)).train
    assert with_parts("x", sources((1000, 1000), test), Draw(validation_share=0.125)).notes == (
        "split 87.5/12.5, seed 0: 1,750 train, 250 validation",
    )
    assert with_parts("x", sources((1, 1, 10)), Draw()).notes[1:] == (
        "2 classes have one train image, which stays: 'class 0', 'class 1'",
    )


def test_data_without_files_are_held_out_too():
    whole, parted = digits(), with_parts("digits", digits(), Draw(validation_share=0.2))
    assert (len(parted.train.labels), len(parted.validation.labels)) == (1149, 288)
    assert len(parted.test.labels) == len(whole.test.labels) == 360
    both = [part.read(np.arange(len(part.labels))[0]) for part in (parted.train, parted.validation)]
    assert not np.array_equal(*both)
    assert not parted.drawn
    dataset = open_dataset("digits", draw=Draw(validation_share=0.2))
    assert dataset.validation.images.shape == (288, 32, 32, 3)
    seen = {image.tobytes() for image in dataset.train.images} | {
        image.tobytes() for image in dataset.validation.images
    }
    assert seen == {image.tobytes() for image in open_dataset("digits").train.images}


WRONG = {
    "a test share beside a test part": ((5, 5), Draw(0.1), True, "'x' has one; given 0.1$"),
    "no image for tests": ((1, 1), Draw(), False, "^'x': no image is left for the test part"),
    "no image for validation": ((2, 2), Draw(validation_share=0.1), False, "no image is left for the validation part"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_drawn_is_said(case):
    counts, draw, tested, message = WRONG[case]
    given = sources(counts, sources((2, 2)).train if tested else None)
    with pytest.raises(ValueError, match=message) as error:
        with_parts("x", given, draw)
    assert "\n" not in str(error.value)


NAMES = ["a", "größe/ü", "a,b", 'a"b', "a\nb", "a\rb", "a\u2028b", "b\udce9", " a ", "=1+1"]


def test_the_file_of_a_split_keeps_any_name(tmp_path):
    write_split(tmp_path, {"train": NAMES[:6], "test": NAMES[6:]}, {"train": ["x"] * 6, "test": ["y,y"] * 4})
    sums = {"train": sum_of_files(NAMES[:6]), "test": sum_of_files(NAMES[6:])}
    assert read_split(tmp_path, sums) == dict.fromkeys(NAMES[:6], "train") | dict.fromkeys(NAMES[6:], "test")
    with (tmp_path / "split.csv").open(errors="surrogateescape", newline="") as file:
        assert next(csv.DictReader(file)) == {"image": "a", "label": "x", "split": "train"}
    text = (tmp_path / "split.csv").read_bytes()
    moved = text.replace(b'"train"\n', b'"test"\n', 1)
    for spoiled in (text[:-8], moved, b"", text[5:], text + b"z,y,tset\n", text[: text.index(b"\n") + 1], text[:20]):
        (tmp_path / "split.csv").write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"^'.*split.csv' is damaged: ") as error:
            read_split(tmp_path, sums)
        assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng((label, index)).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def config(photos, out, **options):
    options = dict(arch="resnet20", width=4, batch_size=4, steps=2) | options
    return TrainConfig(data=f"folder:{photos}", out=out, **options)


@pytest.fixture
def begun(photos, tmp_path):
    """Begins a run, as `fit` does, without training."""
    job = plan(config(photos, tmp_path / "run", validation_share=0.25))
    (tmp_path / "run").mkdir()
    write_config(job.run, job.config, job.dataset, job.mark)
    return job


def same(one, other):
    return all(
        np.array_equal(getattr(one.dataset, part).images, getattr(other.dataset, part).images)
        for part in ("train", "validation", "test")
    )


def test_a_run_sees_the_images_of_its_split_whatever_came_since(begun, photos):
    again = config(photos, begun.run, validation_share=0.25)
    assert same(plan(again), begun)
    for index in range(10, 30):
        Image.new("RGB", (8, 8)).save(photos / "cat" / f"{index}.png")
    job = plan(again)
    assert same(job, begun)
    assert job.mark == begun.mark
    assert job.dataset.notes[1] == (
        "20 images ('cat/10.png', 'cat/11.png', 'cat/12.png', …) came after the split was drawn, and are left out"
    )
    assert len(plan(config(photos, None, validation_share=0.25)).dataset.test.labels) == 8
    # An evaluation of the run sees the same ones.
    dataset = images_of_run(TrainConfig(out=begun.run))[1]
    np.testing.assert_array_equal(dataset.test.images, begun.dataset.test.images)


CHANGES = {
    "removed": (lambda photos: (photos / "cat" / "3.png").unlink(), "1 image ('cat/3.png') of this run's split is"),
    "renamed": (lambda photos: (photos / "dog" / "3.png").rename(photos / "dog" / "x.png"), "1 image ('dog/3.png') of"),
    "of another class": (
        lambda photos: (photos / "dog" / "3.png").rename(photos / "cat" / "d3.png"),
        "1 image ('dog/3.png') of this run's split is missing; put back what was moved, renamed or removed",
    ),
    "a class renamed": (lambda photos: (photos / "dog").rename(photos / "wolf"), "10 images ('dog/0.png', 'dog/1.png'"),
    "a split.csv that was changed": (
        lambda photos: (photos.parent / "run" / "split.csv").write_text("image,label,split\n"),
        "split.csv' is damaged: its images for train are not those that config.json tells of",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_in_the_images_of_a_split_is_said_in_a_line(change, begun, photos):
    make, message = CHANGES[change]
    make(photos)
    with pytest.raises(ValueError) as error:
        plan(config(photos, begun.run, validation_share=0.25))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "differs"),
    [
        ({"seed": 1}, "seed (0 there, 1 now)"),
        ({"split_seed": 1}, "split_seed (None there, 1 now)"),
        ({"test_share": 0.3}, "test_share (None there, 0.3 now)"),
        ({"validation_share": 0.0}, "validation_share (0.25 there, 0.0 now)"),
    ],
)
def test_another_split_is_another_run(options, differs, begun, photos):
    with pytest.raises(ValueError, match="holds another run, which differs in ") as error:
        plan(config(photos, begun.run, **{"validation_share": 0.25} | options))
    assert differs in str(error.value)


def test_a_seed_of_its_own_keeps_the_split_where_the_runs_seed_changes(photos, tmp_path):
    tests = [
        plan(config(photos, tmp_path / "run", seed=seed, split_seed=split_seed)).dataset.test_files
        for seed, split_seed in ((0, None), (1, None), (1, 0), (2, 0))
    ]
    assert tests[0] == tests[2] == tests[3] != tests[1]

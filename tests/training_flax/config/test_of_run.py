"""A run that knows itself: options that are left out are the run's, and those that are given must be."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from older_runs import write_older_config
from PIL import Image

from training_flax import TrainConfig, plan
from training_flax.config.config import MODEL, RUN, reaching
from training_flax.config.of_run import options_of_run
from training_flax.config.run_config import read_config
from training_flax.run.folder import write_config
from training_flax.train_command import main

SMALL = dict(width=4, data="fake:8x8x3:4:64", batch_size=16)
COMMAND = "python -m training_flax: error: "  # the longest start of a line


def begin(run, config):
    """Writes the config.json of a run that begins."""
    job = plan(replace(config, out=run))
    run.mkdir()
    write_config(run, job.config, job.dataset, job.mark, job.lengths)
    return job


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin(
        Path("run"), TrainConfig("resnet20", steps=4, seed=3, freeze=("conv1/*",), ema=0.5, augment=("flip",), **SMALL)
    )
    return Path("run")


CONFIGS = [
    TrainConfig("resnet20", steps=4, **SMALL),
    TrainConfig("densenet_40_12", epochs=2, growth_rate=4, seed=2**32 - 1, data="fake:8x8x3:4:64", batch_size=32),
    TrainConfig("resnet50", recipe="a3", steps=4, **SMALL, dtype="bfloat16", max_skipped=3),
    TrainConfig("resnet18", steps=4, mean=(0.5,) * 3, std=(0.25,) * 3, freeze=("layer1_*",), batch_norm="local"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.arch)
def test_a_run_alone_has_all_of_its_options(config, tmp_path):
    job = begin(tmp_path / "run", config)
    again = plan(TrainConfig(out=tmp_path / "run"))
    assert (again.config, again.mark, again.lengths) == (job.config, job.mark, job.lengths)
    assert plan(again.config).config == job.config
    assert plan(replace(config, out=tmp_path / "run")).config == job.config


def test_a_recipes_size_of_test_images_is_no_option_of_the_users(tmp_path):
    """Images of one size are not resized in tests, whatever the recipe that the run keeps says."""
    job = begin(
        tmp_path / "run", TrainConfig("resnet20", recipe="a3", steps=4, **SMALL | {"data": "fake:160x160x3:4:64"})
    )
    assert job.config.test_image_size == 224
    assert plan(TrainConfig(out=tmp_path / "run")).config == job.config


# Another value of each option that must be the run's, which is not the default of the option where the run has another.
OTHERS = {
    **dict(arch="resnet32", data="digits", recipe="fine-tune", train_split="train", test_split="val", image_size=16),
    **dict(test_image_size=16, test_crop=0.5, test_crop_rule="timm", interpolation="bicubic", mean=(0.5,) * 3),
    **dict(
        std=(0.5,) * 3, weights="start.npz", which="last", num_classes=7, new_head=True, ignore_unused=True, epochs=9
    ),
    **dict(steps=9, batch_size=32, accumulate=2, augment=("none",), mixup=0.2, cutmix=0.2, augment_until=0.5),
    **dict(label_smoothing=0.1, loss="binary", optimizer="adamw", lr=0.3, lr_scaling="linear", momentum=0.5),
    **dict(nesterov=True, weight_decay=0.1, decay="kernels", schedule="constant", decay_at=(0.1, 0.2), warmup=0.1),
    **dict(warmup_lr=0.1, warmup_shape="constant", clip_norm=1.0, ema=0.0, ema_warmup=False, freeze=()),
    **dict(stem_type="imagenet", shortcut="B", bottleneck_stride="v1", padding="same", width=8, growth_rate=12),
    **dict(zero_init=True, dropout=0.1, drop_path=0.1, remat=True, frozen_batch_norm=True, dtype="bfloat16"),
    **dict(batch_norm="local", reduce_dtype="bfloat16", max_skipped=3, seed=0),
    **dict(validation_split="val", test_share=0.3, validation_share=0.25, split_seed=5, patience=2),
    **dict(class_weights="balanced", sampling="balanced", layer_decay=0.5, batch_norm_decay=0.5),
}


def test_each_option_that_must_agree_is_tried():
    assert OTHERS.keys() == {option.name for option in fields(TrainConfig)} - {*reaching(RUN)}


@pytest.mark.parametrize("name", OTHERS)
def test_an_option_that_differs_is_named_with_both_values(name, run):
    stored = read_config(run)
    there = (stored | stored["model"])[name]
    with pytest.raises(ValueError) as error:
        plan(TrainConfig(out=run, **{name: OTHERS[name]}))
    there, now = (tuple(value) if isinstance(value, list) else value for value in (there, OTHERS[name]))
    shown = f"{'model ' * (name in reaching(MODEL))}{name} ({there!r} there, {now!r} now)"
    hint = "; --extend makes a run longer" if name in ("epochs", "steps", "patience") else ""
    assert str(error.value) == f"out 'run' holds another run, which differs in {shown}{hint}"


@pytest.mark.parametrize("folder", ["run", "/".join(["a folder with a long name"] * 6)])
def test_many_differences_fit_into_200_characters(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    begin(Path(folder), TrainConfig("resnet20", steps=4, seed=3, **SMALL))
    left = ("data", "weights", "epochs", "steps", "seed", "ema", "freeze", "patience")
    names = [name for name in OTHERS if name not in left]
    for start in range(len(names)):
        for count in (2, 3, 4, 7, 30):
            given = {name: OTHERS[name] for name in (names + names)[start : start + count]}
            with pytest.raises(ValueError) as error:
                options_of_run(TrainConfig(out=folder, **given))
            line = str(error.value)
            assert len(COMMAND + line) <= 212, line
            assert len("train.py: error: " + line) <= 200, line
            named = line.count(" there, ")
            assert 1 <= named <= 3
            more = line.rpartition(" and ")[2] if named < len(given) else None
            assert more is None or more == f"{len(given) - named} more"
    assert " and 27 more" in line


def test_long_values_that_begin_alike_are_told_apart(run):
    config = read_config(run)
    given = replace(TrainConfig(out=run), freeze=("conv1/*", *(f"layer{i}/*" for i in range(40))))
    with pytest.raises(ValueError, match=r"freeze \(\['conv1/\*'\]|freeze \(\('conv1/\*',\) there, ") as error:
        plan(given)
    assert len(str(error.value)) <= 180
    assert config["freeze"] == ["conv1/*"]


@pytest.mark.parametrize("options", [dict(workers=1), dict(parallel="pmap"), dict(checkpoint_minutes=1.0)])
def test_options_of_the_machine_may_differ(options, run):
    config = plan(TrainConfig(out=run, **options)).config
    assert {name: getattr(config, name) for name in options} == options


LENGTHS = {
    "no length": ({}, "extend needs the new length, as epochs or steps; the run has 4 steps"),
    "fewer steps": ({"steps": 3}, "extend makes a run longer; it has 4 steps; given 3 steps"),
    "no steps": ({"steps": 0}, "steps must be a positive integer; given 0"),
    "both": ({"steps": 9, "epochs": 9}, "give epochs or steps, not both; given epochs=9 and steps=9"),
    "another option too": ({"steps": 9, "lr": 0.3}, "out 'run' holds another run, which differs in lr (0.1 there, 0.3"),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_a_run_is_extended_by_a_longer_length_alone(case, run):
    options, message = LENGTHS[case]
    with pytest.raises(ValueError) as error:
        plan(TrainConfig(out=run, **options), extend=True)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("options", "steps"), [({"steps": 9}, 9), ({"epochs": 3}, 12), ({"steps": 4}, 4)])
def test_a_run_is_extended_by_steps_or_epochs(options, steps, run):
    job = plan(TrainConfig(out=run, **options), extend=True)
    assert (job.total_steps, job.lengths) == (steps, tuple(sorted({4, steps})))
    assert job.mark == read_config(run)["mark"]


def test_epochs_that_are_fewer_steps_extend_nothing(tmp_path):
    begin(tmp_path / "run", TrainConfig("resnet20", steps=9, **SMALL))
    with pytest.raises(ValueError, match=r"^extend makes a run longer; it has 9 steps; given 2 epochs$"):
        plan(TrainConfig(out=tmp_path / "run", epochs=2), extend=True)


def test_a_new_run_needs_an_architecture(tmp_path, capsys):
    message = "out 'new' holds no run to go on with, and a new one needs arch (--arch)"
    assert main(["--out", "new"]) == 2
    assert capsys.readouterr().err == f"train.py: error: {message}\n"
    with pytest.raises(ValueError, match=r"^arch is missing: name one, such as densenet121, or as out the folder of"):
        plan(TrainConfig())


def test_a_run_of_an_older_version_knows_itself_too(tmp_path):
    config = TrainConfig("resnet20", steps=4, test_crop_rule="centred", **SMALL)
    job = plan(config)
    write_older_config(tmp_path, job.config, job.dataset)
    assert "machine" not in read_config(tmp_path)
    assert plan(TrainConfig(out=tmp_path)).config == replace(job.config, out=tmp_path)
    assert plan(TrainConfig(out=tmp_path)).mark == job.mark


@pytest.fixture
def photos(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / "here/photos" / part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(
            tmp_path / "here/photos" / part / name / "0.jpg"
        )
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_data_are_found_from_another_folder(photos, monkeypatch):
    monkeypatch.chdir(photos / "here")
    config = TrainConfig("resnet20", width=4, data="folder:photos", steps=1, batch_size=2)
    job = begin(photos / "run", config)
    assert plan(TrainConfig(out="../run")).config.data == "folder:photos"
    monkeypatch.chdir(photos / "elsewhere")
    found = plan(TrainConfig(out="../run"))
    # The run keeps its own name for them, so that what it writes is the same from wherever it is called.
    assert (found.config.data, found.dataset.name, found.mark) == ("folder:photos", "folder:photos", job.mark)
    write_config(found.run, found.config, found.dataset, found.mark, found.lengths)  # as it goes on
    assert read_config("../run")["machine"] == {"data": f"folder:{photos / 'here/photos'}"}
    assert plan(TrainConfig(out="../run")).mark == job.mark
    monkeypatch.chdir(photos / "here")
    assert plan(TrainConfig(out="../run")).mark == job.mark
    assert plan(TrainConfig(out="../run", data="folder:./photos")).mark == job.mark


def test_the_folder_of_prepared_data_is_remembered(run, tmp_path):
    (tmp_path / "prepared").mkdir()
    values = json.loads((run / "config.json").read_text())
    del values["check_sum"]
    values |= {"data": "tfds:mnist", "machine": {"data_dir": str(tmp_path / "prepared")}}
    (run / "config.json").write_text(json.dumps(values))
    assert options_of_run(TrainConfig(out=run)).data_dir == tmp_path / "prepared"
    assert options_of_run(TrainConfig(out=run, data_dir=Path("other"))).data_dir == Path("other")
    (tmp_path / "prepared").rmdir()  # another machine, where $TFDS_DATA_DIR may say
    assert options_of_run(TrainConfig(out=run)).data_dir is None


def test_a_damaged_config_is_refused(run):
    (run / "config.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"^out 'run' has a damaged config\.json; name a new folder: "):
        plan(TrainConfig(out=run))

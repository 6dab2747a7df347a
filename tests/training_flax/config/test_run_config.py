"""The config.json of a run: read as it was written, in old forms too, and refused in one line that names the field."""

import json
import random
import time
from dataclasses import replace

import pytest
from broken_configs import BROKEN, places, replaced

from common_flax.check_sums import KEY, sealed
from training_flax import TrainConfig, plan
from training_flax.config.run_config import numbers_options, plain, read_config, read_run_config
from training_flax.run.folder import write_config

OPTIONS = dict(data="fake:8x8x3:4:64", steps=12, batch_size=16)
JOB = plan(TrainConfig("resnet20", width=4, **OPTIONS))
WRITTEN = plain(numbers_options(JOB.config, JOB.dataset))


@pytest.fixture
def refusal(tmp_path):
    """Makes the function from a config, or its text, to the line of its refusal; None if it is read."""

    def refuse(config):
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        (tmp_path / "config.json").write_bytes(text)
        try:
            read_run_config(tmp_path)
        except ValueError as error:
            start = f"{str(tmp_path / 'config.json')!r} is damaged: "
            assert str(error).startswith(start)
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < len(start) + 500
            return str(error).removeprefix(start)
        return None

    return refuse


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig("resnet20", width=4, **OPTIONS),
        TrainConfig("densenet_40_12", recipe="huang2017-cifar", growth_rate=4, seed=2**32 - 1),
        TrainConfig("resnet50", recipe="a3", **OPTIONS | {"steps": 3}),
        TrainConfig(
            "resnet18", data="digits", mean=(0.5,) * 3, std=(0.25,) * 3, zero_init=True, freeze=("layer1_*",), ema=0.9
        ),
    ],
)
def test_a_config_is_read_as_it_was_written(config, tmp_path):
    job = plan(config)
    job = replace(job, config=replace(job.config, dtype="float64"))  # `plan` would ask for JAX's x64
    write_config(tmp_path, job.config, job.dataset, job.mark)
    read = read_run_config(tmp_path)
    assert read.options == replace(job.config, num_classes=len(job.dataset.class_names))
    dataset = job.dataset
    assert (read.class_names, read.image_shape) == (dataset.class_names, dataset.image_shape)
    assert (read.mean, read.std, read.mark) == (dataset.mean, dataset.std, job.mark)
    assert (read.train_examples, read.test_examples) == (len(dataset.train.labels), len(dataset.test.labels))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_config_is_refused_by_its_field(case, refusal):
    change, message = BROKEN[case]
    assert refusal(WRITTEN) is None
    assert message in (refusal(change(WRITTEN)) or "")


def test_no_value_of_another_type_is_taken(refusal):
    values = [None, True, -1, 0.5, "x", [], {}, ["x"], [[]], {"a": None}, 10**30, "x" * 10**4]
    taken = []
    for place in places(WRITTEN):
        for value in values:
            if refusal(replaced(WRITTEN, place, value)) is None:
                taken.append((place[-1] if place[0] == "model" else place[0], value))
    allowed = {name for name, value in taken if value not in (None, [], {}) and not isinstance(value, bool)}
    # A string of any text, a share that may be a half, and numbers without an upper bound.
    assert allowed == {
        *("weights", "freeze", "class_names", "versions", "test_crop", "mixup", "cutmix", "augment_until"),
        *("label_smoothing", "lr", "momentum", "weight_decay", "warmup", "warmup_lr", "clip_norm", "ema", "drop_path"),
        *("normalisation", "decay_at", "train_split", "test_split", "validation_split", "test_share"),
        *("validation_share", "layer_decay", "batch_norm_decay"),
    }


def test_values_that_changed_places_are_refused_where_their_types_or_bounds_differ(refusal):
    random.seed(0)
    tops = [(name,) for name in WRITTEN]
    for first, second in (random.sample(tops, 2) for _ in range(150)):
        swapped = replaced(WRITTEN, first, WRITTEN[second[0]])
        swapped = replaced(swapped, second, WRITTEN[first[0]])
        line = refusal(swapped)
        kinds = {type(value) for value in (WRITTEN[first[0]], WRITTEN[second[0]])}
        assert line is not None or len(kinds - {type(None)}) < 2 or kinds == {int, float}, (first, second)
        assert swapped == WRITTEN or refusal(swapped | {KEY: sealed(WRITTEN)[KEY]})


def test_random_damage_is_noticed(refusal):
    text = json.dumps(sealed({**WRITTEN, "mark": JOB.mark}), indent=2).encode()
    random.seed(1)
    for number in range(300):
        damaged, at = bytearray(text), random.randrange(len(text))
        if number % 3 == 0:
            damaged[at] ^= 1 << random.randrange(8)
        elif number % 3 == 1:
            del damaged[at : at + random.choice([1, 7, 100, len(text)])]
        else:
            damaged[at : at + 64] = bytes(64)
        if refusal(bytes(damaged)) is None:  # JSON says the same with other white space, or without the check sum
            values = json.loads(damaged)
            assert {**values, KEY: None} == {**json.loads(text), KEY: None}


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("versions",)])
def test_a_field_that_was_lost_is_missed(name, refusal):
    left = {field: value for field, value in sealed(WRITTEN).items() if field != name}
    assert refusal(left) in (f"{name} is missing", "its content is not what was written")


def test_a_run_of_an_older_version_had_the_defaults_of_its_time(tmp_path):
    needed = ("arch", "recipe", "batch_size", "lr", "steps", "data", "model", "num_classes", "class_names")
    needed += ("image_shape", "normalisation", "train_examples", "test_examples")
    old = {name: WRITTEN[name] for name in needed} | {"optimiser": "lamb", "augment": ["colour:0.3"]}
    old["model"] = {"width": 4, "stem": "cifar"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    read = read_run_config(tmp_path)
    assert (read.options.optimizer, read.options.augment, read.options.stem_type) == ("lamb", ("color:0.3",), "cifar")
    assert (read.options.augment_until, read.options.ema_warmup, read.options.drop_path) == (1.0, False, None)
    assert read.mark is None
    assert read_config(tmp_path)["model"].keys() == WRITTEN["model"].keys()


def test_the_names_of_a_million_classes_fit(tmp_path):
    names = [f"class {number}" for number in range(10**6)]
    many = WRITTEN | {"num_classes": len(names), "class_names": names}
    (tmp_path / "config.json").write_text(json.dumps(sealed(many), indent=2))
    start = time.process_time()
    assert read_run_config(tmp_path).num_classes == len(names)
    assert time.process_time() - start < 5


def test_names_of_classes_may_be_any_text(tmp_path):
    names = ["\udcff", "a\nb", "[{:", "é"]
    (tmp_path / "config.json").write_text(json.dumps(sealed(WRITTEN | {"class_names": names})))
    assert read_run_config(tmp_path).class_names == tuple(names)


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"is no run: it has no config\.json$"):
        read_run_config(tmp_path)

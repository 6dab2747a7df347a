"""Interpolation and crop of a file's origin: in its card, in prediction, evaluation and training, as timm has them."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from resnet_flax import resnet20
from training_flax import TrainConfig, evaluate, fit, plan, predict
from training_flax.data.decode import centre_crop, read_image
from training_flax.inference.command import main as predict_command
from training_flax.inference.trained import network_of_run, network_of_weights
from training_flax.run.loop import train_reader
from weights_flax import load_model, read_card, save_weights, to_torch

TIMM = {
    "architecture": "resnet20",
    "num_classes": 2,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 24, 24],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "test_input_size": [3, 288, 288],
        "test_crop_pct": 1.0,
    },
}
SEEN = {"crop": 0.95, "crop_rule": "timm", "interpolation": "bicubic"}
SHAPES = ((40, 61), (33, 47), (52, 31), (24, 24))
MOMENTS = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Makes a folder of pictures of noise, and weights with timm's config.json beside them, as on the hub."""
    root = tmp_path_factory.mktemp("origin")
    for part in ("train", "test"):
        for label, name in enumerate("ab"):
            for index, shape in enumerate(SHAPES):
                path = root / "data" / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng((label, index)).integers(0, 256, (*shape, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    model = resnet20(width=4, num_classes=2)
    variables = jax.device_get(model.init(jax.random.key(0), np.zeros((1, 24, 24, 3), np.float32), train=False))
    (root / "hub").mkdir()
    save_file(dict(to_torch(model, variables)), root / "hub" / "model.safetensors")
    (root / "hub" / "config.json").write_text(json.dumps(TIMM))
    return root


def pictures(place, part="test"):
    return sorted(map(str, (place / "data" / part).rglob("*.png")))


def as_seen(place, size=24, part="test", **options):
    seen = dict(ratio=0.95, interpolation="bicubic", rule="timm") | options
    return np.stack([centre_crop(read_image(path, path), size, **seen) for path in pictures(place, part)])


@pytest.mark.slow
def test_the_card_has_what_stands_beside_the_file(place):
    card = read_card(place / "hub" / "model.safetensors")
    assert card["preprocessing"] == SEEN
    assert card["normalisation"] == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    assert card["image_shape"] == [24, 24, 3]
    assert read_card(place / "hub")["preprocessing"] == SEEN
    assert load_model(place / "hub").card["preprocessing"] == SEEN


def changed(**values):
    return TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | values}


CONFIGS = {
    "timm": (TIMM, SEEN),
    "older timm, without pretrained_cfg": (TIMM["pretrained_cfg"], SEEN),
    "no interpolation": (changed(interpolation=None), {"crop": 0.95, "crop_rule": "timm"}),
    "an interpolation that is none of ours": (changed(interpolation="lanczos"), {"crop": 0.95, "crop_rule": "timm"}),
    "the whole": (changed(crop_pct=1.0), SEEN | {"crop": 1.0}),
    "no crop": (changed(crop_mode="squash"), None),
    "a crop beyond the picture": (changed(crop_pct=1.5), None),
    "a crop of nothing": (changed(crop_pct=0), None),
    "a crop of text": (changed(crop_pct="big"), None),
    "a crop that is no number": (changed(crop_pct=float("nan")), None),
    "a size of two numbers": (changed(input_size=[224, 224]), None),
    "a list": ([1, 2], None),
    "another library's": ({"architectures": ["BertModel"]}, None),
    "no JSON": (None, None),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_config_json_of_others_is_read_or_passed_over(case, place, tmp_path):
    config, expected = CONFIGS[case]
    shutil.copy(place / "hub" / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{" if config is None else json.dumps(config))
    assert read_card(tmp_path / "model.safetensors").get("preprocessing") == expected


PROCESSOR = {
    "crop_pct": 0.875,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
}
PROCESSORS = {
    "bicubic": (PROCESSOR, {"crop": 0.875, "crop_rule": "timm", "interpolation": "bicubic"}),
    "bilinear": (PROCESSOR | {"resample": 2}, {"crop": 0.875, "crop_rule": "timm", "interpolation": "bilinear"}),
    "older": (PROCESSOR | {"size": 224}, {"crop": 0.875, "crop_rule": "timm", "interpolation": "bicubic"}),
    "large": (PROCESSOR | {"size": {"shortest_edge": 384}}, None),
    "no resizing": (PROCESSOR | {"do_resize": False}, None),
    "no crop": ({name: value for name, value in PROCESSOR.items() if name != "crop_pct"}, None),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_the_processor_of_transformers_is_read_or_passed_over(case, place, tmp_path):
    config, expected = PROCESSORS[case]
    shutil.copy(place / "hub" / "model.safetensors", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    card = read_card(tmp_path / "model.safetensors")
    assert card.get("preprocessing") == expected
    assert card.get("image_shape") == (None if expected is None else [224, 224, 3])


@pytest.mark.slow
def test_prediction_sees_images_as_timm_does(place, capsys, tmp_path):
    model, variables, _ = load_model(place / "hub")
    expected = predict(model, variables, as_seen(place), **MOMENTS)
    lines = tmp_path / "lines.jsonl"
    command = ["--json", "--out", str(lines), str(place / "data" / "test")]
    assert predict_command(["--weights", str(place / "hub"), *command]) == 0
    assert "crops 0.95 of the shorter side, bicubic, rounded as by timm" in capsys.readouterr().err
    found = [json.loads(line)["classes"][0]["probability"] for line in lines.read_text().splitlines()]
    np.testing.assert_allclose(found, expected.probabilities[:, 0], rtol=1e-5)
    by_paths = predict(
        model,
        variables,
        pictures(place),
        **MOMENTS,
        image_size=24,
        crop=0.95,
        interpolation="bicubic",
        crop_rule="timm",
    )
    np.testing.assert_allclose(by_paths.probabilities, expected.probabilities, rtol=1e-5)
    # Each option changes what is seen.
    for option in (["--crop", "0.7"], ["--interpolation", "bilinear"], ["--crop-rule", "centred"]):
        assert predict_command(["--weights", str(place / "hub"), *option, *command]) == 0
        other = [json.loads(line)["classes"][0]["probability"] for line in lines.read_text().splitlines()]
        assert not np.allclose(other, expected.probabilities[:, 0], rtol=1e-5)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--interpolation", "nearest"], "unknown interpolation 'nearest'; allowed: 'bilinear', 'bicubic'"),
        (["--interpolation", "cubic"], "unknown interpolation 'cubic'; did you mean 'bicubic'?"),
        (["--crop-rule", "tim"], "unknown crop_rule 'tim'; did you mean 'timm'?"),
    ],
)
def test_unknown_values_get_one_line(option, said, place, capsys):
    assert predict_command(["--weights", str(place / "hub"), *option, str(place / "data" / "test")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"predict: error: {said}"
    with pytest.raises(ValueError, match=said.partition(";")[0]):
        evaluate(None, {}, None, **{option[0][2:].replace("-", "_"): option[1]})


@pytest.mark.slow
def test_evaluation_sees_images_as_the_weights_origin_does(place):
    config = TrainConfig("resnet20", width=4, data=f"folder:{place / 'data'}", image_size=24, batch_size=4, steps=1)
    job = plan(replace(config, weights=str(place / "hub" / "model.safetensors")))
    chosen = job.config
    assert (chosen.test_crop, chosen.test_crop_rule, chosen.interpolation) == (0.95, "timm", "bicubic")
    assert (job.dataset.mean, job.dataset.std) == (MOMENTS["mean"], MOMENTS["std"])
    model, variables, _ = load_model(place / "hub")
    seen = dict(crop=0.95, crop_rule="timm", interpolation="bicubic")
    found = evaluate(model, variables, job.dataset, 4, **seen)
    classes = predict(model, variables, as_seen(place), **MOMENTS, top=1).classes[:, 0]
    np.testing.assert_array_equal(found.predictions, classes)
    probabilities = predict(model, variables, as_seen(place), **MOMENTS, top=2)
    right = [
        row[list(order).index(label)]
        for row, order, label in zip(*probabilities, job.dataset.test.labels.tolist(), strict=True)
    ]
    assert found.loss == pytest.approx(-np.log(right).mean(), rel=1e-5)
    # Options and recipes come before the weights' origin.
    ours = plan(replace(config, weights=str(place / "hub"), test_crop=0.9, interpolation="bilinear")).config
    assert (ours.test_crop, ours.test_crop_rule, ours.interpolation) == (0.9, "timm", "bilinear")
    plain = plan(config).config
    assert (plain.test_crop, plain.test_crop_rule, plain.interpolation) == (0.875, "torchvision", "bilinear")


@pytest.mark.slow
def test_training_and_its_run_carry_them_on(place, tmp_path):
    shutil.copytree(place / "hub", tmp_path / "hub")
    config = TrainConfig(
        "resnet20",
        width=4,
        data=f"folder:{place / 'data'}",
        image_size=24,
        batch_size=4,
        steps=2,
        augment=("none",),
        weights=str(tmp_path / "hub"),
        out=tmp_path / "run",
    )
    reader = train_reader(plan(config))
    order = np.arange(8)
    read = np.stack([image.result() for image in reader.start(order, 0 * order)])
    reader.close()
    np.testing.assert_array_equal(read, as_seen(place, part="train", ratio=1.0))
    fit(config, quiet=True)
    for source in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert read_card(source)["preprocessing"].items() >= SEEN.items()
    for trained in (
        network_of_run(tmp_path / "run", "float32"),
        network_of_weights(str(tmp_path / "run" / "model.safetensors"), None, "float32"),
    ):
        assert (trained.crop, trained.crop_rule, trained.interpolation) == (0.95, "timm", "bicubic")
    # A run that goes on has them from its config.json: the weights may be gone.
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {stored[name] for name in ("test_crop", "test_crop_rule", "interpolation")} == set(SEEN.values())
    (tmp_path / "hub").rename(tmp_path / "gone")
    assert plan(config).config.interpolation == "bicubic"


@pytest.mark.slow
def test_a_run_of_before_the_options_keeps_its_crop(place, tmp_path):
    config = TrainConfig("resnet20", width=4, data=f"folder:{place / 'data'}", image_size=24, batch_size=4, steps=1)
    fit(replace(config, out=tmp_path / "run", test_crop_rule="centred"), quiet=True)
    path = tmp_path / "run" / "config.json"
    stored = {name: value for name, value in json.loads(path.read_text()).items() if name != "check_sum"}
    for name in ("test_crop_rule", "interpolation", "train_split", "test_split"):
        del stored[name]
    path.write_text(json.dumps(stored))
    job = plan(replace(config, out=tmp_path / "run"))
    assert (job.config.test_crop_rule, job.config.interpolation) == ("centred", "bilinear")
    assert network_of_run(tmp_path / "run", "float32").crop_rule == "centred"
    assert read_card(tmp_path / "run" / "model.safetensors")["preprocessing"]["crop_rule"] == "centred"


def test_a_damaged_card_is_named(place, tmp_path):
    model, variables, _ = load_model(place / "hub")
    path = tmp_path / "x.safetensors"
    save_weights(model, variables, path, preprocessing={"crop": "big", "interpolation": "bicubic"})
    config = TrainConfig("resnet20", width=4, data=f"folder:{place / 'data'}", image_size=24, batch_size=4, steps=1)
    with pytest.raises(ValueError, match=r"x.safetensors' have a damaged card: preprocessing$"):
        plan(replace(config, weights=str(path)))
    with pytest.raises(ValueError, match=r"x.safetensors' have a damaged card$"):
        network_of_weights(str(path), None, "float32")

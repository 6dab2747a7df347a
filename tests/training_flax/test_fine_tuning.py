"""Training that starts from published weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import references
from drawn import check_same, drawn

from resnet_flax import resnet20
from training_flax import TrainConfig, evaluate_run, fit, plan
from training_flax.introduction import introduce
from training_flax.learn.starting_weights import normalisation, starting_weights
from training_flax.runtime.terminal import Terminal
from weights_flax import load_model, load_weights, save_weights

NINE_BLOCKS = True
LLVM = 1
AKAMASTER = str(references.GOLDEN / "cifar10_resnet20_akamaster.th")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = dict(arch="resnet20", steps=1, width=4, augment=(), batch_size=16)


def weights(path, **options):
    model = resnet20(width=4, **options)
    save_weights(model, drawn(model), path, mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 3.0])
    return str(path)


def test_a_file_of_pytorch_is_a_start(tmp_path):
    """The initial state has the file's values, under our names, with the same classes."""
    job = plan(TrainConfig("resnet20", weights=AKAMASTER, out=tmp_path / "run"))
    check_same(starting_weights(job.config, job.eval_model), load_weights(resnet20(), AKAMASTER))


@pytest.mark.parametrize("asked", [dict(num_classes=7), dict(new_head=True), dict(num_classes=7, new_head=True)])
def test_a_new_head_when_asked(tmp_path, asked):
    config = TrainConfig(**SMALL, data="fake:32x32x3:7", weights=weights(tmp_path / "w.npz"), seed=5, **asked)
    model = resnet20(width=4, num_classes=7)
    check_same(
        starting_weights(plan(config).config, model), load_weights(model, tmp_path / "w.npz", new_head=True, seed=5)
    )


def test_as_many_classes_stay_and_are_drawn_anew_when_asked(tmp_path):
    config = TrainConfig(**SMALL, num_classes=10, weights=weights(tmp_path / "w.npz"))
    model = resnet20(width=4)
    check_same(starting_weights(config, model), drawn(model))
    anew = starting_weights(TrainConfig(**SMALL, new_head=True, weights=config.weights), model)
    assert not np.array_equal(anew["params"]["fc"]["kernel"], drawn(model)["params"]["fc"]["kernel"])


@pytest.mark.slow
def test_images_are_normalised_as_the_weights_have_seen_them(tmp_path):
    """Normalisation is that of the config, else of the file, else of the data; a run keeps its own without the file."""
    path = weights(tmp_path / "w.safetensors")
    assert normalisation(TrainConfig(**SMALL), 3) is None
    assert normalisation(TrainConfig(**SMALL, weights=AKAMASTER), 3) is None
    assert normalisation(TrainConfig(**SMALL, weights=path), 3) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert normalisation(TrainConfig(**SMALL, weights=path, mean=MEAN, std=STD), 3) == (MEAN, STD)
    config = TrainConfig(**SMALL, weights=path, out=tmp_path / "run")
    result = fit(config, quiet=True)
    Path(path).unlink()
    assert plan(config).dataset.mean == (0.1, 0.2, 0.3)
    assert load_model(result.run).card["normalisation"] == {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}


def test_options_of_other_networks_can_be_given(tmp_path):
    """Weights of Keras and of Flax's example need a network with their options."""
    config = TrainConfig("resnet50", bottleneck_stride="v1", padding="same", data="fake:32x32x3:7", steps=1)
    model = plan(config).eval_model
    assert (model.bottleneck_stride, model.padding) == ("v1", "same")


CIFAR = os.environ.get("CIFAR10_JPEG", "")
needs_cifar = pytest.mark.skipif(not CIFAR, reason="$CIFAR10_JPEG, the folder of CIFAR-10 as JPEG files, is not set")


@needs_cifar
@pytest.mark.slow
def test_akamasters_resnet20_scores_as_in_pytorch():
    config = TrainConfig("resnet20", data=f"folder:{CIFAR}", weights=AKAMASTER, mean=MEAN, std=STD, batch_size=500)
    assert evaluate_run(config, quiet=True).accuracy == pytest.approx(0.8103, abs=2e-4)


@needs_cifar
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fine_tuning_beats_training_from_scratch(tmp_path, seed):
    """Fine-tuning on 50 images per class beats training from scratch, in as many steps, by 15 points or more."""
    few_images(tmp_path / "data", seed)
    common = dict(arch="resnet20", data=f"folder:{tmp_path / 'data'}", recipe="fine-tune", seed=seed)
    common |= dict(mean=MEAN, std=STD)
    tuned = fit(TrainConfig(**common, weights=AKAMASTER, new_head=True, out=tmp_path / "tuned"), quiet=True)
    scratch = fit(TrainConfig(**common, lr=0.1, out=tmp_path / "scratch"), quiet=True)
    assert tuned.summary["test_accuracy"] > 0.8
    assert tuned.summary["test_accuracy"] > scratch.summary["test_accuracy"] + 0.15


def few_images(folder, seed):
    """Writes 50 train and 200 test images per class of CIFAR-10, with class names in another order."""
    rng = np.random.default_rng(seed)
    classes = sorted(path.name for path in (Path(CIFAR) / "train").iterdir())
    for number, name in enumerate(rng.permutation(classes)):
        for part, count in (("train", 50), ("test", 200)):
            inside = folder / part / f"class{number}"
            inside.mkdir(parents=True)
            files = sorted((Path(CIFAR) / part / name).iterdir())
            for index in rng.choice(len(files), count, replace=False):
                (inside / files[index].name).symlink_to(files[index])


def told(capsys, **options):
    """The lines of a run's header that are about mean and std."""
    introduce(plan(TrainConfig(**SMALL, **options)), Terminal())
    return [line for line in capsys.readouterr().out.splitlines() if "mean" in line]


@pytest.mark.slow
def test_the_header_says_where_mean_and_std_are_from(tmp_path, capsys):
    digits = " ".join(["0.3054"] * 3) + ", std " + " ".join(["0.3753"] * 3)
    with_card, without = weights(tmp_path / "w.npz"), str(tmp_path / "w.pt")
    save_weights(resnet20(width=4), drawn(resnet20(width=4)), without)
    ours = dict(mean=MEAN, std=STD)
    imagenet = "        mean 0.485 0.456 0.406, std 0.229 0.224 0.225, as given"
    own = "        mean 0.1 0.2 0.3, std 1 2 3, "
    assert told(capsys) == [f"        mean {digits}, measured on the train images"]
    assert told(capsys, **ours) == [imagenet]
    assert told(capsys, weights=with_card) == [f"{own}of the weights {with_card}"]
    assert told(capsys, weights=with_card, **ours) == [imagenet]
    silent = f"        mean {digits}, measured on the train images; the weights {without} name none (--mean, --std)"
    assert told(capsys, weights=without) == [silent]
    assert told(capsys, weights=without, **ours) == [imagenet]
    fit(TrainConfig(**SMALL, weights=with_card, out=tmp_path / "run"), quiet=True)
    Path(with_card).unlink()
    assert told(capsys, weights=with_card, out=tmp_path / "run") == [f"{own}as the run began"]


def test_mean_and_std_of_other_channels_are_named_with_their_file(tmp_path):
    path = weights(tmp_path / "w.npz")
    with pytest.raises(ValueError) as error:
        plan(TrainConfig(**SMALL, weights=path, data="fake:32x32x1:10"))
    there = "(0.1, 0.2, 0.3) and (1.0, 2.0, 3.0)"
    one = f"mean and std must have a number for each of 1 channels; those of the weights {path} are {there}"
    assert str(error.value) == one

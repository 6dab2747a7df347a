import pytest
from older_runs import write_older_config

import training_flax
from training_flax import TrainConfig, plan, with_recipe
from training_flax.config.checks import check
from training_flax.run.folder import read_config
from training_flax.train_command import parse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(arch="densnet121"), "unknown arch 'densnet121'; did you mean 'densenet121'?"),
        (dict(data="cats"), "unknown data set 'cats'; allowed: 'digits', 'fake', 'folder', 'csv', 'tfds'"),
        (dict(dtype="float8"), "unknown dtype 'float8'; did you mean"),
        (dict(batch_size=0), "batch_size must be a positive integer; given 0"),
        (dict(epochs=-1), "epochs must be a positive integer; given -1"),
        (dict(steps=0), "steps must be a positive integer; given 0"),
        (dict(epochs=2, steps=3), "give epochs or steps, not both; given epochs=2 and steps=3"),
        (dict(lr=-0.1), "lr must be positive and finite; given -0.1"),
        (dict(lr=float("nan")), "lr must be positive and finite; given nan"),
        (dict(weight_decay=-1.0), "weight_decay must be at least 0 and finite; given -1.0"),
        (dict(momentum=1.0), "momentum must be at least 0 and under 1; given 1.0"),
        (dict(augment=("affin",)), "unknown augmentation 'affin'; did you mean 'affine'?"),
        (dict(label_smoothing=1.0), "label_smoothing must be at least 0 and under 1; given 1.0"),
        (dict(seed=-1), "seed must be from 0 to 4294967295; given -1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        check(TrainConfig(**{"arch": "resnet20", **options}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "steps", "epochs"),
    [
        (dict(epochs=1), 23, 1),  # 1437 / 64 = 22.45
        (dict(epochs=8), 180, 8),
        (dict(epochs=2, batch_size=1437), 2, 2),
        (dict(steps=5), 5, 1),
        (dict(steps=23), 23, 1),
        (dict(steps=24), 24, 2),
    ],
)
def test_length_of_a_run(options, steps, epochs, tmp_path):
    job = plan(TrainConfig("resnet20", out=tmp_path / "run", **{"batch_size": 64, **options}))
    assert (job.total_steps, job.epochs) == (steps, epochs)
    assert job.last_step(job.epochs) == steps
    assert not job.run.exists()


@pytest.mark.parametrize("batch_size", [64, 479, 1437])
def test_each_step_belongs_to_the_epoch_that_it_stands_in(batch_size, tmp_path):
    """The last step of an epoch is the first with which all of its images were seen, however long a run is."""
    job = plan(TrainConfig("resnet20", steps=100, batch_size=batch_size, out=tmp_path / "run"))
    for step in range(1, 101):
        epoch = job.epoch_at(step)
        assert job.last_step(epoch - 1) < step <= job.last_step(epoch)
    assert job.epoch_at(0) == 1
    job = plan(TrainConfig("resnet20", steps=10**8, batch_size=batch_size, out=tmp_path / "long"))
    assert job.last_step(job.epochs - 1) < 10**8 == job.last_step(job.epochs)


def test_a_batch_larger_than_the_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at most the 1437 images of digits; given 2000"):
        plan(TrainConfig("resnet20", batch_size=2000, out=tmp_path / "run"))


def test_a_run_is_never_overwritten(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="is not empty, and holds no run to go on with"):
        plan(TrainConfig("resnet20", out=tmp_path))
    with pytest.raises(ValueError, match="is not a folder"):
        plan(TrainConfig("resnet20", out=tmp_path / "summary.json"))
    with pytest.raises(ValueError, match="cannot be made"):
        plan(TrainConfig("resnet20", out=tmp_path / "summary.json" / "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_runs_without_a_name_get_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    config = TrainConfig("resnet20")
    first = plan(config).run
    assert str(first) == "runs/resnet20-digits-now"
    first.mkdir(parents=True)
    assert str(plan(config).run) == "runs/resnet20-digits-now-2"


def test_old_names_of_options_are_still_read():
    with pytest.warns(DeprecationWarning, match="optimiser= is optimizer= now"):
        config = TrainConfig("resnet20", optimiser="adamw")
    assert config == TrainConfig("resnet20", optimizer="adamw")
    options = parse(["--arch", "resnet20", "--optimiser", "adamw", "--stem=imagenet", "--augment", "colour:0.2"])
    assert (options.optimizer, options.stem_type) == ("adamw", "imagenet")
    assert with_recipe(options.training).augment == ("color:0.2",)
    with pytest.warns(DeprecationWarning, match="training_flax.make_optimiser is make_optimizer now"):
        assert training_flax.make_optimiser is training_flax.make_optimizer


def test_a_run_with_old_names_of_options_goes_on(tmp_path):
    config = TrainConfig("resnet20", augment=("color:0.2",), stem_type="cifar", out=tmp_path)
    job = plan(config)
    write_older_config(tmp_path, job.config, job.dataset)
    text = (tmp_path / "config.json").read_text()
    for new, old in {"optimizer": "optimiser", "stem_type": "stem", "color:": "colour:"}.items():
        assert text.count(new) == 1
        text = text.replace(new, old)
    (tmp_path / "config.json").write_text(text)
    assert plan(config).run == tmp_path
    assert read_config(tmp_path)["optimizer"] == "sgd"
    assert read_config(tmp_path)["model"]["stem_type"] == "cifar"
    with pytest.raises(ValueError, match=r"differs in optimizer \('sgd' there, 'lamb' now\)"):
        plan(TrainConfig("resnet20", augment=("color:0.2",), stem_type="cifar", optimizer="lamb", out=tmp_path))

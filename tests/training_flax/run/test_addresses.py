"""The same data and weights at another address: a run goes on; other content under any address is refused."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from training_flax import TrainConfig, plan
from training_flax.run.folder import write_config
from weights_flax import build_model, save_weights


def picture(seed, side=9):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for label, name in enumerate(("a", "b")):
        for part, count in (("train", 4), ("test", 1)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for index in range(count):
                picture(100 * label + index).save(tmp_path / "data" / part / name / f"{index}.png")
    model = build_model("resnet20", num_classes=2, width=4)
    save_weights(model, model.init(jax.random.key(0), np.zeros((1, 9, 9, 3))), tmp_path / "start.npz")
    return tmp_path


def config(data="folder:data", **options):
    return TrainConfig(
        arch="resnet20", width=4, data=data, batch_size=4, steps=2, out="run", **{"image_size": 9, **options}
    )


def begin(**options):
    Path("run").mkdir()
    job = plan(config(**options))
    write_config(job.run, job.config, job.dataset, job.mark)
    return job.mark


def linked(root):
    (root / "link").symlink_to(root / "data")
    return "folder:link"


def moved(root):
    (root / "disk").mkdir()
    (root / "data").rename(root / "disk" / "pictures")
    return "folder:disk/pictures"


def copied(root):
    shutil.copytree(root / "data", root / "copy")
    return "folder:copy"


SAME = {
    "absolute": lambda root: f"folder:{root / 'data'}",
    "a slash behind": lambda root: "folder:data/",
    "a dot": lambda root: "folder:./data",
    "up and down": lambda root: "folder:data/../data",
    "home": lambda root: "folder:~/data",
    "linked": linked,
    "moved": moved,
    "copied": copied,
}


@pytest.mark.parametrize("address", SAME.values(), ids=SAME)
@pytest.mark.parametrize("options", [{}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}], ids=["own moments", "given"])
def test_the_same_folder_at_another_address(address, options, root):
    mark = begin(**options)
    assert plan(config(address(root), **options)).mark == mark


def bigger(folder):
    picture(7, 20).save(folder / "train" / "b" / "3.png")


def fewer(folder):
    (folder / "train" / "b" / "3.png").unlink()


def renamed(folder):
    (folder / "test" / "b" / "0.png").rename(folder / "test" / "b" / "1.png")


@pytest.mark.parametrize(
    ("change", "named"), [(bigger, "train_bytes"), (fewer, "train_examples"), (renamed, "test_files")]
)
def test_another_folder_under_another_address_is_refused(change, named, root):
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    begin(**options)
    address = copied(root)
    change(root / "copy")
    with pytest.raises(ValueError, match=rf"holds another run, which differs in .*{named} \("):
        plan(config(address, **options))


def test_a_mended_image_under_the_same_address_is_no_other_folder(root):
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    mark = begin(**options)
    bigger(root / "data")
    assert plan(config(**options)).mark == mark


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("fake:9x9x3:2:8", "fake:9x9x3:2:8", True),
        ("fake:9x9x3:2", "fake:9x9x3:2:1024", True),
        ("fake:9x9x3:2:8", "fake:9x9x3:2:16", False),
        ("fake:9x9x3:2:8", "folder:data", False),
    ],
)
def test_other_kinds_of_data(before, after, same, root):
    begin(data=before)
    if same:
        assert plan(config(after)).config.data == after
    else:
        with pytest.raises(ValueError, match="holds another run, which differs in"):
            plan(config(after))


def weights_moved(root):
    (root / "start.npz").rename(root / "elsewhere.npz")
    return "elsewhere.npz"


@pytest.mark.parametrize(
    "address", [lambda root: f"{root}/start.npz", lambda root: "./start.npz", lambda root: "~/start.npz", weights_moved]
)
def test_the_same_weights_at_another_address(address, root):
    mark = begin(weights="start.npz")
    assert plan(config(weights=address(root))).mark == mark


def test_weights_that_are_gone_need_not_be_spelled_alike(root):
    mark = begin(weights="start.npz")
    (root / "run" / "checkpoints" / "1").mkdir(parents=True)  # a run that resumes does not read its weights again
    (root / "start.npz").unlink()
    assert plan(config(weights="./start.npz")).mark == mark
    with pytest.raises(ValueError, match=r"holds another run, which differs in weights \("):
        plan(config(weights="elsewhere.npz"))


def test_other_weights_at_another_address_are_refused(root):
    begin(weights="start.npz")
    model = build_model("resnet20", num_classes=2, width=4)
    save_weights(model, model.init(jax.random.key(1), np.zeros((1, 9, 9, 3))), root / "other.npz")
    with pytest.raises(ValueError, match=r"holds another run, which differs in weights_sum .*|differs in weights "):
        plan(config(weights="other.npz"))


def test_a_run_knows_its_weights_and_takes_no_others(root):
    mark = begin(weights="start.npz")
    assert plan(config()).mark == plan(TrainConfig(out="run")).mark == mark
    assert plan(config()).config.weights == "start.npz"
    shutil.rmtree("run")
    begin()
    with pytest.raises(ValueError, match=r"differs in weights \(None there, 'start.npz' now\)$"):
        plan(config(weights="start.npz"))

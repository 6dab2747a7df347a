"""The weights of a run's folder: which ones are taken, from its files or its checkpoints, and what is refused."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from drawn import check_same, drawn

from common_flax.check_sums import sealed, write_check_sums
from resnet_flax import plain20, stack_blocks
from weights_flax import load_model, load_weights, read_card, save_weights
from weights_flax.formats.open import open_weights
from weights_flax.formats.run import FILES as ALL_FILES, origin

FILES = {which: ALL_FILES[which] for which in ("averaged", "last")}  # of runs without a validation part
MODEL = plain20(width=2, num_classes=3)  # its names and shapes fit a ResNet too
CONFIG = {"arch": "plain20", "num_classes": 3, "model": {"width": 2, "shortcut": None}, "ema": 0.9, "mark": "mine"}
CONFIG |= {"class_names": ["a", "b", "c"], "image_shape": [8, 8, 3]}


def weights(factor):
    return jax.tree.map(lambda leaf: np.float32(factor) * leaf, drawn(MODEL))


LAST, AVERAGED, NEWER, NEWER_AVERAGED = map(weights, (1, 2, 3, 4))


def write_config(run, **changes):
    config = {name: value for name, value in (CONFIG | changes).items() if value is not None}
    (run / "config.json").write_text(json.dumps(sealed(config)))


def write_file(run, which, variables, **about):
    save_weights(MODEL, variables, run / FILES[which], run={"mark": "mine", "step": 7, "which": which} | about)


def write_checkpoint(run, number, variables, averaged=None, mark="mine", step=None):
    """Writes a checkpoint; without `step` as older versions did, whose progress did not tell it."""
    folder = run / "checkpoints" / str(number)
    state = {"step": np.int32(number), "opt_state": [{"trace": variables["params"]}], **variables}
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "state", state | ({} if averaged is None else {"ema": averaged}))
        writer.wait_until_finished()
    (folder / "progress").mkdir()
    progress = {"evaluated": number, "mark": mark, "step": step}
    told = {name: value for name, value in progress.items() if value is not None}
    (folder / "progress" / "metadata").write_text(json.dumps(told))
    write_check_sums(folder)


@pytest.fixture(scope="module")
def prototype(tmp_path_factory):
    """A finished run with averaged weights."""
    run = tmp_path_factory.mktemp("runs") / "run"
    run.mkdir()
    write_config(run)
    write_file(run, "last", LAST)
    write_file(run, "averaged", AVERAGED)
    write_checkpoint(run, 7, LAST, AVERAGED)
    return run


@pytest.fixture
def run(prototype, tmp_path):
    return shutil.copytree(prototype, tmp_path / "run")


def remove(*names):
    def change(run):
        for name in names:
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def extended(run):
    """The run went on for a while; its files are those of its first end."""
    write_checkpoint(run, 9, NEWER, NEWER_AVERAGED)


def older_version(run):
    write_config(run, mark=None)
    for which, variables in (("last", LAST), ("averaged", AVERAGED)):
        save_weights(MODEL, variables, run / FILES[which])


def without_averages(run):
    write_config(run, ema=0.0)
    remove(FILES["averaged"])(run)


def stray_averages(run):
    """An averaged file in the folder of a run that averages nothing."""
    write_config(run, ema=0.0)


def stacked(run):
    """A checkpoint of a network whose blocks are stacked, as `scan=True` has them."""
    remove(*FILES.values(), "checkpoints")(run)
    write_checkpoint(run, 7, *map(jax.device_get, map(stack_blocks, (LAST, AVERAGED))))


RIGHT = {
    "finished": (lambda run: None, LAST, AVERAGED, 7),
    "without checkpoints": (remove("checkpoints"), LAST, AVERAGED, 7),
    "not finished": (remove(*FILES.values()), LAST, AVERAGED, 7),
    "without the averaged file": (remove(FILES["averaged"]), LAST, AVERAGED, 7),
    "without the last file": (remove(FILES["last"]), LAST, AVERAGED, 7),
    "extended and stopped": (extended, NEWER, NEWER_AVERAGED, 9),
    "of an older version": (older_version, LAST, AVERAGED, None),
    "that averages nothing": (without_averages, LAST, None, 7),
    "that averages nothing, with a stray file": (stray_averages, LAST, None, 7),
    "with stacked blocks": (stacked, LAST, AVERAGED, 7),
}


@pytest.mark.parametrize("case", RIGHT)
def test_all_doors_take_the_same_weights(case, run):
    change, last, averaged, step = RIGHT[case]
    change(run)
    rule = last if averaged is None else averaged
    for which, expected in ((None, rule), ("last", last), ("averaged", averaged)):
        if expected is None:
            with pytest.raises(ValueError, match=r"run '.*' has no averaged weights; it was trained with ema 0$"):
                load_model(run, which=which)
            continue
        model, variables, card = load_model(run, which=which)
        assert model == MODEL
        check_same(variables, expected)
        check_same(load_weights(MODEL, run, which=which), expected)
        assert card == read_card(run, which=which) == open_weights(run, which=which).card
        kind = which or ("last" if averaged is None else "averaged")
        assert (card["run"]["which"], card["run"].get("step")) == (kind, step)
        assert origin(card) == f"{kind} weights" + (f" after step {step}" if step else "")


def test_a_checkpoint_has_the_card_that_a_file_would_have(run):
    remove(*FILES.values())(run)
    card = load_model(run).card
    assert (card["arch"], card["options"], card["class_names"]) == ("plain20", {"width": 2}, ["a", "b", "c"])
    assert card["image_shape"] == [8, 8, 3]


def damage_checkpoint(run):
    extended(run)
    path = next(path for path in (run / "checkpoints" / "9" / "state").rglob("d/*") if path.stat().st_size > 500)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def another_runs_checkpoint(run):
    write_checkpoint(run, 12, NEWER, NEWER_AVERAGED, mark="other")


def zeros_in_the_file(run):
    data = bytearray((run / FILES["averaged"]).read_bytes())
    data[-2000:-1488] = bytes(512)
    (run / FILES["averaged"]).write_bytes(data)


def cut_config(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text[: len(text) // 2])


def changed_config(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"ema": 0.9', '"ema": 0.0'))


def under_another_number(run):
    """A copy of a checkpoint, as a newer one."""
    write_checkpoint(run, 9, NEWER, NEWER_AVERAGED, step=5)


def without_check_sums(run):
    write_checkpoint(run, 9, NEWER, NEWER_AVERAGED, step=9)
    (run / "checkpoints/9/check_sums.json").unlink()


def only_an_older_checkpoint(run):
    """The run has ended after 12 steps, and the files of its end are gone."""
    (run / "summary.json").write_text(json.dumps(sealed({"steps": 12})))
    remove(FILES["averaged"])(run)


WRONG = {
    "a checkpoint under another number": (
        under_another_number,
        "^checkpoint 9 of '.*run' is damaged: it is checkpoint 5$",
    ),
    "no check sums": (without_check_sums, "^checkpoint 9 of '.*run' is damaged: its file check_sums.json is missing$"),
    "no progress": (
        lambda run: (extended(run), remove("checkpoints/9/progress", "checkpoints/9/check_sums.json")(run)),
        "^checkpoint 9 of '.*run' is damaged: its file progress/metadata cannot be read: No such file or directory$",
    ),
    "only an older checkpoint": (
        only_an_older_checkpoint,
        "^checkpoint 7 of '.*run' is not that of the run's end, step 12, which is missing$",
    ),
    "a damaged newest checkpoint": (
        damage_checkpoint,
        r"^checkpoint 9 of '.*run' is damaged: its file state/.* is not",
    ),
    "a checkpoint of another run": (another_runs_checkpoint, "^checkpoint 12 of '.*run' belongs to another run"),
    "a file of another run": (
        lambda run: write_file(run, "averaged", NEWER, mark="other"),
        "^weights '.*model_ema.safetensors' belong to another run than config.json beside it$",
    ),
    "the last weights under the averaged ones' name": (
        lambda run: shutil.copy(run / FILES["last"], run / FILES["averaged"]),
        "^weights '.*model_ema.safetensors' are the last weights, not the averaged ones$",
    ),
    "a damaged file": (zeros_in_the_file, "^weights '.*model_ema.safetensors' cannot be read: it is damaged: "),
    "an empty file": (lambda run: (run / FILES["averaged"]).write_bytes(b""), "^weights '.*' cannot be read: "),
    "no averaged file and no checkpoint": (
        remove(FILES["averaged"], "checkpoints"),
        "^run '.*run' has no checkpoint yet, and no model_ema.safetensors$",
    ),
    "a checkpoint without averages": (
        lambda run: (remove(*FILES.values(), "checkpoints")(run), write_checkpoint(run, 7, LAST)),
        "^weights '.*state' cannot be read: it has no averaged weights$",
    ),
    "a cut config.json": (cut_config, "^'.*config.json' is damaged"),
    "an empty config.json": (lambda run: (run / "config.json").write_text(""), "^'.*config.json' is damaged"),
    "a config.json with another ema": (changed_config, "^'.*config.json' is damaged"),
    "an ema that is no number": (lambda run: write_config(run, ema="0.9"), "^'.*config.json' is damaged"),
    "a mark that is no text": (lambda run: write_config(run, mark=5), "^'.*config.json' is damaged"),
    "no architecture": (lambda run: write_config(run, arch=None), "^'.*config.json' is damaged"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_mixed_up_or_damaged_is_refused_in_one_line(case, run):
    change, message = WRONG[case]
    change(run)
    with pytest.raises(ValueError, match=message) as error:
        load_weights(MODEL, run)
    assert "\n" not in str(error.value)


def test_other_words_are_refused(run):
    with pytest.raises(ValueError, match="unknown which 'avreaged'; did you mean 'averaged'"):
        load_model(run, which="avreaged")


@pytest.mark.parametrize("source", ["w.pth", "w.safetensors", "run/model.safetensors", "run/checkpoints/7/state"])
def test_a_source_of_one_kind_gives_no_other(source, run, tmp_path):
    if source.startswith("w"):
        save_weights(MODEL, LAST, tmp_path / source)
    if "checkpoints" in source:
        check_same(load_weights(MODEL, tmp_path / source, which="averaged"), AVERAGED)
        check_same(load_weights(MODEL, tmp_path / source, which="last"), LAST)
        return
    has = "the last weights" if source.startswith("run") else "weights that are not said to be averaged or last"
    with pytest.raises(ValueError, match=rf"^weights '.*{source}' are {has}; asked for: averaged$"):
        load_model(tmp_path / source, which="averaged")


def test_a_damaged_checkpoint_is_refused_under_its_own_name_too(run):
    damage_checkpoint(run)
    with pytest.raises(ValueError, match=r"^weights '.*9/state' cannot be read: its file state/.* is not what was"):
        load_weights(MODEL, run / "checkpoints" / "9" / "state")


@pytest.mark.parametrize("config", [{"architecture": "resnet50", "num_classes": 1000}, {"model_type": "resnet"}])
def test_a_folder_of_the_hub_is_no_run(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_weights(MODEL, LAST, tmp_path / "model.safetensors")
    check_same(load_weights(MODEL, tmp_path), LAST)

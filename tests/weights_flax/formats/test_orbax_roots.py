"""Folders of Orbax' CheckpointManager: the root, a step, an item; and what is passed over in them."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from drawn import check_same, drawn
from flax import serialization

from resnet_flax import resnet20
from weights_flax import load_model, load_weights
from weights_flax.__main__ import main

MODEL = resnet20(width=2, num_classes=3)
FIRST = drawn(MODEL)
LAST, AVERAGE = (jax.tree.map(lambda leaf, by=by: np.float32(by) * leaf, FIRST) for by in (2, 3))


def save_steps(root, *steps, options=None, items=None):
    with ocp.CheckpointManager(root, options=options) as manager:
        for step, variables in steps:
            args = ocp.args.StandardSave(variables)
            manager.save(step, args=args if items is None else items(variables))
        manager.wait_until_finished()
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return save_steps(tmp_path_factory.mktemp("orbax") / "root", (0, FIRST), (3, FIRST), (20, LAST))


def test_the_root_gives_its_newest_step(root, capsys):
    check_same(load_weights(MODEL, root), LAST)
    check_same(load_weights(MODEL, root / "20"), LAST)
    check_same(load_weights(MODEL, root / "3"), FIRST)
    check_same(load_weights(MODEL, root / "3" / "default"), FIRST)
    assert load_model(root).model == MODEL
    assert main(["inspect", str(root)]) == 0
    assert "20/default: checkpoint of Orbax" in capsys.readouterr().out


def test_steps_with_a_prefix(tmp_path):
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", step_format_fixed_length=6)
    check_same(load_weights(MODEL, save_steps(tmp_path / "r", (9, FIRST), (10, LAST), options=options)), LAST)


def test_several_items(tmp_path):
    def items(variables):
        parts = {name: ocp.args.StandardSave(variables[name]) for name in ("params", "batch_stats")}
        about = ocp.args.JsonSave({"epoch": 3})
        return ocp.args.Composite(**parts, ema_params=ocp.args.StandardSave(AVERAGE["params"]), about=about)

    root = save_steps(tmp_path / "r", (7, LAST), items=items)
    for source in (root, root / "7"):
        check_same(load_weights(MODEL, source), LAST)
        averaged = load_weights(MODEL, source, ema=True)
        check_same(averaged["params"], AVERAGE["params"])
        check_same(averaged["batch_stats"], LAST["batch_stats"])


def test_a_training_state_as_one_item(tmp_path):
    state = {"step": np.int32(7), "opt_state": {"trace": LAST["params"]}, **LAST, "params_ema": AVERAGE["params"]}
    root = save_steps(tmp_path / "r", (7, state))
    check_same(load_weights(MODEL, root), LAST)
    check_same(load_weights(MODEL, root, ema=True)["params"], AVERAGE["params"])
    wrapped = save_steps(tmp_path / "w", (7, {"state": {"train": state}}))
    check_same(load_weights(MODEL, wrapped), LAST)


def states():
    """Training states with an average, and what a look without a wish and one for the average give."""
    plain = {"step": np.int32(7), "opt_state": {"trace": LAST["params"]}, **LAST}
    mixed = {"params": AVERAGE["params"], "batch_stats": LAST["batch_stats"]}
    return {
        "parameters alone": ({**plain, "ema": {"params": AVERAGE["params"]}}, LAST, mixed),
        "beside them": ({**plain, "ema_params": AVERAGE["params"]}, LAST, mixed),
        "of ours": ({**plain, "ema": AVERAGE}, AVERAGE, AVERAGE),
    }


@pytest.mark.parametrize("form", ["msgpack", "Orbax"])
@pytest.mark.parametrize("name", states())
def test_averages_in_a_training_state(name, form, tmp_path, caplog):
    state, usual, averaged = states()[name]
    if form == "msgpack":
        (path := tmp_path / "state.msgpack").write_bytes(serialization.to_bytes(state))
    else:
        path = save_steps(tmp_path / "r", (7, state))
    loaded = load_model(path)
    check_same(loaded.variables, usual)
    took = (
        "took the averaged weights under 'ema'; ema=False" if name == "of ours" else "took the network under 'params'"
    )
    assert took in loaded.notes[0]
    if usual is LAST:
        assert "ema=True (--ema) takes the averaged weights" in loaded.notes[0]
    loaded = load_model(path, ema=True)
    check_same(loaded.variables, averaged)
    assert not any("took" in note for note in loaded.notes)
    check_same(load_model(path, ema=False).variables, LAST)
    assert {record.name for record in caplog.records if record.levelname == "WARNING"} <= {"weights_flax"}


def test_a_folder_of_flaxs_checkpoints_gives_the_newest(tmp_path):
    for step, variables in ((3, FIRST), (10, LAST), (9, FIRST)):
        (tmp_path / f"checkpoint_{step}").write_bytes(serialization.to_bytes({"step": step, **variables}))
    (tmp_path / "checkpoint_11.tmp").write_bytes(b"a")
    (tmp_path / "checkpoint_tmp").write_bytes(b"a")
    check_same(load_weights(MODEL, tmp_path), LAST)
    assert load_model(tmp_path).model == MODEL


def test_steps_that_are_not_whole_and_links_are_passed_over(root, tmp_path):
    save_steps(tmp_path / "r", (1, FIRST))
    (tmp_path / "r" / "99").mkdir()
    (tmp_path / "r" / "50.orbax-checkpoint-tmp-77").mkdir()
    (tmp_path / "r" / "50.orbax-checkpoint-tmp-77" / "_METADATA").touch()
    (tmp_path / "r" / "60").symlink_to(root / "20")
    (tmp_path / "r" / "61").mkdir()
    (tmp_path / "r" / "61" / "default").symlink_to(root / "20" / "default")
    check_same(load_weights(MODEL, tmp_path / "r"), FIRST)


def test_a_module_around_the_network(tmp_path):
    """A user's own module has ours as a part, and a head of its own beside it."""
    wrapped = {kind: {"backbone": LAST[kind]} for kind in ("params", "batch_stats")}
    wrapped["params"]["probe"] = {"kernel": np.ones((8, 3), np.float32), "bias": np.ones(3, np.float32)}
    root = save_steps(tmp_path / "r", (1, wrapped))
    with pytest.raises(ValueError, match="beside it: params/probe/bias, params/probe/kernel; ignore_unused=True"):
        load_weights(MODEL, root)
    check_same(load_weights(MODEL, root, ignore_unused=True), LAST)
    assert load_weights(MODEL, root, new_head=True)["params"].keys() == LAST["params"].keys()


@pytest.mark.parametrize("empty", ["nothing", "an empty step", "text"])
def test_folders_without_arrays(empty, tmp_path, capsys):
    if empty == "an empty step":
        (tmp_path / "5" / "default").mkdir(parents=True)
    if empty == "text":
        (tmp_path / "5").mkdir()
        (tmp_path / "5" / "x.txt").write_text("a")
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("it is no run, and no checkpoint of Orbax\n")

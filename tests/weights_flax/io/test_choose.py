"""Which part of a file is the network: found by what fits, behind any prefix, with what is left over named."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn import check_same, drawn
from torch_files import Tensor, save, tensors

from densenet_flax import densenet_bc_40_12
from resnet_flax import resnet20, resnet50, vgg11
from weights_flax import load_model, load_weights, save_weights, to_torch
from weights_flax.__main__ import main
from weights_flax.formats.open import open_weights
from weights_flax.names.candidates import candidates

MODEL = resnet20(width=2, num_classes=3)
RIGHT = drawn(MODEL)
AVERAGE = jax.tree.map(lambda leaf: np.float32(2) * leaf, RIGHT)
STATE, AVERAGED = to_torch(MODEL, RIGHT), to_torch(MODEL, AVERAGE)
TENSORS, EMA = tensors(STATE), tensors(AVERAGED)
SCALAR = Tensor(np.float32(76.1))
MOMENTA = {
    "state": {i: {"momentum_buffer": Tensor(np.ones((64, 64), np.float32))} for i in range(60)},
    "param_groups": [{"lr": 0.1, "params": list(range(60))}],
}


def behind(prefix, state=None):
    return {f"{prefix}{name}": value for name, value in (TENSORS if state is None else state).items()}


def flattened(state):
    return {f"ema_backbone_{name.replace('.', '_')}": value for name, value in state.items()}


def other_network():
    """A network of convolutions that none of ours is."""
    return {f"main.{i}.weight": Tensor(np.ones((4, 4, 3, 3), np.float32)) for i in range(40)}


ONE = {
    "PyTorch's ImageNet example": {"epoch": 1, "arch": "resnet20", "state_dict": TENSORS, "best_acc1": SCALAR},
    "the same, the accuracy first": {"best_acc1": SCALAR, "epoch": Tensor(np.int64(3)), "state_dict": TENSORS},
    "wrappers of wrappers": {"checkpoint": {"run": {"model": {"state_dict": TENSORS}}}},
    "a larger optimizer before it": {"optimizer": MOMENTA, "net": TENSORS},
    "a list": [TENSORS, MOMENTA, 7],
    "a tuple in a dict": {"content": (3, {"weights": TENSORS})},
    "another network before it": {"netD": other_network(), "netG": TENSORS},
    "another network of more tensors under the usual key": {"state_dict": other_network(), "extractor": TENSORS},
    "an average of SWA": behind("module.") | {"n_averaged": Tensor(np.int64(3))},
    "modules as dicts": {"model": {"backbone": TENSORS, "step": Tensor(np.int64(1))}},
}
PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "encoder_q.", "net.", "attacker.model."]
PREFIXES += ["module._orig_mod.", "_orig_mod.module.", "model.module.", "module.model.backbone.", "backbone.backbone."]
PREFIXES += ["model.net._orig_mod.", "learner.trunk.", "module.attacker.model.", "0.", "timm_model.", "student."]
TWO = {
    "timm's": ({"state_dict": TENSORS, "state_dict_ema": EMA}, "state_dict/"),
    "the average first": ({"model_ema": EMA, "model": TENSORS}, "model/"),
    "an average in a wrapper": ({"model": TENSORS, "ema": {"module": EMA, "decay": 0.9}}, "model/"),
    "student and teacher": ({"teacher": behind("module.", EMA), "student": behind("module.")}, "student/"),
    "of ema-pytorch": (
        behind("ema_model.", EMA) | behind("online_model.") | {"initted": Tensor(np.int64(1))},
        "online_model.",
    ),
    "MoCo's": (
        {"state_dict": behind("module.encoder_k.", EMA) | behind("module.encoder_q.")},
        "state_dict/encoder_q.",
    ),
    "Lightning's callback": (
        {"state_dict": behind("model."), "callbacks": {"EMA": {"ema_state_dict": behind("model.", EMA)}}},
        "state_dict/model.",
    ),
    "OpenMMLab's beside it": (
        {"state_dict": behind("backbone."), "ema_state_dict": behind("module.backbone.", EMA) | {"steps": SCALAR}},
        "state_dict/backbone.",
    ),
    "OpenMMLab's in one": ({"state_dict": behind("backbone.") | flattened(EMA)}, "state_dict/backbone."),
    "a target network": (behind("online_network.") | behind("target_network.", EMA), "online_network."),
}
BESIDE = {
    "a criterion": (behind("model.") | {"criterion.weight": Tensor(np.ones(3, np.float32))}, "criterion.weight"),
    "a normaliser": (
        behind("attacker.model.") | {"normalizer.new_mean": Tensor(np.ones((3, 1, 1), np.float32))},
        "normalizer.new_mean",
    ),
    "an index": (behind("module.") | {"queue": Tensor(np.ones((8, 20), np.float32))}, "queue"),
    "at its own level": (TENSORS | {"class_weights": Tensor(np.ones(3, np.float32))}, "class_weights"),
    "a metric": (behind("net.") | {"train_acc.confmat": Tensor(np.ones((3, 3), np.float32))}, "train_acc.confmat"),
    "a teacher of another kind": (behind("student.") | behind("vit.", other_network()), "vit.main.0.weight"),
}


@pytest.mark.parametrize("name", ONE)
def test_the_network_is_found_wherever_it_is(name, tmp_path):
    path = save(ONE[name], tmp_path / "best.pth")
    check_same(load_weights(MODEL, path), RIGHT)
    loaded = load_model(path)
    assert loaded.model == MODEL
    check_same(loaded.variables, RIGHT)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_found_by_what_fits(prefix, tmp_path):
    path = save({"state_dict": behind(prefix)}, tmp_path / "best.pth")
    check_same(load_model(path).variables, RIGHT)
    check_same(load_weights(MODEL, path), RIGHT)


def test_wrappers_within_a_network(tmp_path):
    """Of stages that were compiled or checkpointed one by one."""
    inner = {
        re.sub(
            r"layer2\.", "layer2._orig_mod.", re.sub(r"(layer3\.\d)\.", r"\1._checkpoint_wrapped_module.", name)
        ): value
        for name, value in TENSORS.items()
    }
    check_same(load_weights(MODEL, save(behind("module.", inner), tmp_path / "best.pth")), RIGHT)


@pytest.mark.parametrize("model", [densenet_bc_40_12(growth_rate=4), vgg11(width=1), resnet50(width=2)])
def test_prefixes_of_other_families(model, tmp_path):
    path = save({"model": behind("module.net.", tensors(to_torch(model, drawn(model))))}, tmp_path / "best.pth")
    check_same(load_weights(model, path), drawn(model))
    assert load_model(path).model == model


@pytest.mark.parametrize("name", TWO)
def test_of_a_network_and_its_average_either_is_taken(name, tmp_path, caplog):
    content, prefix = TWO[name]
    path = save(content, tmp_path / "best.pth")
    loaded = load_model(path)
    check_same(loaded.variables["params"], RIGHT["params"])
    assert f"took the network under {prefix!r}, not " in loaded.notes[0]
    assert "ema=True (--ema) takes the averaged weights" in caplog.text
    for chosen in ({"ema": True}, {"which": "averaged"}):
        check_same(load_model(path, **chosen).variables["params"], AVERAGE["params"])
        check_same(load_weights(MODEL, path, **chosen)["params"], AVERAGE["params"])
    check_same(load_weights(MODEL, path, ema=False), RIGHT)


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_networks_the_first_in_natural_order_is_taken(seed, tmp_path):
    """Whatever the order of the file, and of Python's sets in this process."""
    members = {f"member_{i}.": AVERAGED if i == 2 else STATE for i in (2, 3, 10, 11, 20)}
    content = [(f"{prefix}{name}", value) for prefix, state in members.items() for name, value in state.items()]
    order = np.random.default_rng(seed).permutation(len(content))
    path = save(tensors(dict(content[i] for i in order)), tmp_path / "ensemble.pth")
    loaded = load_model(path)
    check_same(loaded.variables, AVERAGE)
    assert "took the network under 'member_2.', not 'member_3.', 'member_10.', 'member_11.'" in loaded.notes[0]


def test_the_choice_does_not_depend_on_the_hashes_of_a_process(tmp_path):
    code = (
        "import sys; from weights_flax.names.candidates import candidates; import numpy as np;"
        "from weights_flax.formats.tensors import Tensor; one = Tensor((1,), np.dtype('f4'), None);"
        "print([c.prefix for c in candidates({f'{p}.{n}': one for p in 'dbaec' for n in "
        "('conv1.weight', 'layer1.0.conv1.weight')})])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {"['a.', 'b.', 'c.', 'd.', 'e.']\n"}


def test_two_hundred_networks_in_a_file(tmp_path):
    one = {name: Tensor(np.zeros(value.shape, np.float32)[..., :0]) for name, value in STATE.items()}
    path = save({"m0": one}, tmp_path / "many.pth")
    file = open_weights(path)
    start = time.process_time()
    found = candidates({f"m{i}/{name[3:]}": tensor for i in range(200) for name, tensor in file.tensors.items()})
    assert len(found) == 200
    assert time.process_time() - start < 10


def test_the_network_that_fits_is_taken_though_the_other_is_no_average(tmp_path):
    """An average counts as a network of its own where the other fits nothing, or not the model."""
    half = dict(list(TENSORS.items())[::2])
    path = save({"model": half, "model_ema": EMA}, tmp_path / "best.pth")
    check_same(load_model(path).variables, AVERAGE)
    other = resnet20(width=4, num_classes=3)
    path = save({"small": TENSORS, "large": tensors(to_torch(other, drawn(other)))}, tmp_path / "two.pth")
    check_same(load_weights(MODEL, path), RIGHT)
    check_same(load_weights(other, path), drawn(other))


@pytest.mark.parametrize(
    ("content", "asked", "said"),
    [
        (TENSORS, {"ema": True}, "are weights that are not said to be averaged or last; asked for: averaged"),
        ({"ema": EMA}, {"ema": False}, "are the averaged weights; asked for: last"),
        ({"model": TENSORS}, {"which": "last", "ema": True}, "ask for different weights; give one of them"),
    ],
)
def test_weights_that_are_not_there(content, asked, said, tmp_path):
    path = save(content, tmp_path / "best.pth")
    for load in (load_model, lambda path, **options: load_weights(MODEL, path, **options)):
        with pytest.raises(ValueError, match=said):
            load(path, **asked)


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_left_over_is_named_and_ignored_when_asked(name, tmp_path, capsys):
    content, left = BESIDE[name]
    path = save({"state_dict": content}, tmp_path / "best.ckpt")
    for load in (load_model, lambda path: load_weights(MODEL, path)):
        with pytest.raises(ValueError, match=rf"have other entries beside it: {re.escape(left)}.*; ignore_unused=True"):
            load(path)
    loaded = load_model(path, ignore_unused=True)
    check_same(loaded.variables, RIGHT)
    assert any(f"passed over {left}" in note for note in loaded.notes)
    check_same(load_weights(MODEL, path, ignore_unused=True), RIGHT)
    assert main(["inspect", str(path)]) == 0
    assert re.search(rf"beside +{re.escape(left)}.*: passed over with --ignore-unused\n", capsys.readouterr().out)


def test_a_layer_within_the_network_is_never_ignored(tmp_path):
    """It makes another network of it."""
    extra = {"layer1.0.se.fc1.weight": Tensor(np.ones((2, 2, 1, 1), np.float32))}
    path = save(TENSORS | extra, tmp_path / "best.pth")
    for ignore_unused in (False, True):
        with pytest.raises(ValueError, match=r"unused: layer1\.0\.se\.fc1\.weight"):
            load_weights(MODEL, path, ignore_unused=ignore_unused)
        with pytest.raises(ValueError, match=r"the first difference is layer1\.0\.se\.fc1\.weight .*squeeze"):
            load_model(path, ignore_unused=ignore_unused)


HEADS = {
    "behind a dropout": {"fc.1": "fc"},
    "timm's": {"head.fc": "fc"},
    "of a sequence": {"classifier.1": "fc"},
    "Cadene's": {"last_linear": "fc"},
    "of another word": {"probe": "fc"},
    "none at all": {},
}


def with_head(name):
    renamed = {}
    for each, value in TENSORS.items():
        if each.startswith("fc."):
            renamed |= {f"{new}.{each[3:]}": value for new in HEADS[name]}
        else:
            renamed[each] = value
    return renamed


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside of the prefix"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_of_other_names_give_way_to_a_new_one(name, outside, tmp_path, capsys):
    state = with_head(name)
    if outside:
        state = {
            each if not each.startswith(("conv", "bn", "layer")) else f"encoder.{each}": v for each, v in state.items()
        }
    path = save({"state_dict": state}, tmp_path / "best.pth")
    five = MODEL.clone(num_classes=5)
    variables = load_weights(five, path, new_head=True)
    assert variables["params"]["fc"]["kernel"].shape == (8, 5)
    check_same(variables["params"]["layer3_2"], RIGHT["params"]["layer3_2"])
    assert load_model(path, new_head=True, num_classes=5).model == five
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    if name in ("timm's", "Cadene's"):
        check_same(load_weights(MODEL, path), RIGHT)
        assert load_model(path).model == MODEL
        assert "the classifier is the dense layer" in out
        return
    assert re.search(r"fits +resnet20\(.*width=2.*\) but for the classifier\n", out)
    with pytest.raises(ValueError, match=r"fit resnet20 or plain20 but for the classifier.*new_head=True"):
        load_model(path)
    with pytest.raises(ValueError, match=r"missing: fc\.bias, fc\.weight.*; new_head=True draws the classifier anew"):
        load_weights(MODEL, path)


@pytest.mark.parametrize(
    ("head", "has"),
    [
        ({}, "which the file lacks"),
        ({"fc.weight": (3, 8)}, "whose bias fc.bias is missing"),
        ({"my_out.weight": (3, 8), "my_out.bias": (3,)}, "whose name is another: my_out.weight"),
        ({"fc.1.weight": (3, 8), "fc.1.bias": (3,)}, "whose name is another: fc.1.weight, fc.1.bias"),
        ({"1.8.weight": (3, 8), "1.8.bias": (3,)}, "whose name is another: 1.8.weight"),
    ],
)
def test_what_is_said_of_a_classifier(head, has, tmp_path):
    state = {f"0.{name}": value for name, value in STATE.items() if not name.startswith("fc.")}
    own = "1.8.weight" in head
    state |= {f"{'' if own else '0.'}{name}": np.ones(shape, np.float32) for name, shape in head.items()}
    path = save(tensors(state), tmp_path / "best.pth")
    with pytest.raises(ValueError, match=re.escape(f"but for the classifier, {has}")):
        load_model(path)


def test_a_projector_and_a_queue_beside_an_encoder(tmp_path):
    """MoCo's checkpoint of its second version: a head of two layers, and what is no head is named all the same."""
    state = {name: value for name, value in TENSORS.items() if not name.startswith("fc.")}
    state |= {
        f"fc.{i}.{leaf}": Tensor(np.ones((8, 8)[: 2 - (leaf == "bias")], np.float32))
        for i in (0, 2)
        for leaf in ("weight", "bias")
    }
    content = behind("module.encoder_q.", state) | behind("module.encoder_k.", state)
    content["module.queue"] = Tensor(np.ones((8, 20), np.float32))
    path = save({"state_dict": content}, tmp_path / "moco.pth.tar")
    with pytest.raises(ValueError, match="beside it: queue; ignore_unused=True"):
        load_weights(MODEL, path, new_head=True)
    variables = load_weights(MODEL, path, new_head=True, ignore_unused=True)
    check_same(variables["params"]["conv1"], RIGHT["params"]["conv1"])


def test_the_commands_follow_the_same_rule(tmp_path, capsys):
    path = save(
        {"state_dict": behind("model.") | {"c": Tensor(np.ones(3, np.float32))}, "ema": EMA}, tmp_path / "a.pth"
    )
    assert main(["convert", str(path), "--out", str(tmp_path / "out.npz")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("weights_flax: error: weights ")
    assert line.count("\n") == 1
    assert "beside it: c; ignore_unused=True (--ignore-unused)" in line
    assert not (tmp_path / "out.npz").exists()
    assert main(["convert", str(path), "--ignore-unused", "--out", str(tmp_path / "out.npz")]) == 0
    assert "weights_flax: weights " in (err := capsys.readouterr().err)
    assert "took the network under 'state_dict/model.', not 'ema/'" in err
    check_same(load_model(tmp_path / "out.npz").variables, RIGHT)
    assert main(["convert", str(path), "--ema", "--out", str(tmp_path / "ema.npz")]) == 0
    check_same(load_model(tmp_path / "ema.npz").variables, AVERAGE)
    assert main(["export", "--weights", str(path), "--ema", "--format", "torch", "--out", str(tmp_path / "e.pt")]) == 0
    check_same(load_weights(MODEL, tmp_path / "e.pt"), AVERAGE)


def test_our_own_files_are_as_they_were(tmp_path, caplog):
    """Files with a card say what they are: no line is said of them."""
    path = save_weights(MODEL, RIGHT, tmp_path / "w.safetensors")
    assert load_model(path).notes == ()
    assert not caplog.records

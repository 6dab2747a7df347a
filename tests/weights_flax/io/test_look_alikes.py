"""Networks with the names and shapes of ours and another result: refused where something says so, named where not."""

import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
from drawn import check_same, drawn
from safetensors.numpy import save_file
from torch_files import save, tensors

from resnet_flax import plain20, resnet20, resnet50, vgg11
from weights_flax import load_model, load_weights, save_weights, to_torch
from weights_flax.__main__ import main

MODEL = resnet50(width=2, num_classes=3)
RIGHT = drawn(MODEL)
STATE = to_torch(MODEL, RIGHT)
AVERAGE, BLUR = "average pools where it strides", "blur pools where it strides"


def named(name):
    def make(folder):
        return save(tensors(STATE), folder / name)

    return make


def described(**config):
    def make(folder):
        (folder / "config.json").write_text(json.dumps(config))
        save_file(STATE, folder / "model.safetensors")
        return folder

    return make


def entries(**content):
    def make(folder):
        return save({"state_dict": tensors(STATE), **content}, folder / "model_best.pth.tar")

    return make


def metadata(**content):
    def make(folder):
        save_file(STATE, folder / "best.safetensors", content)
        return folder / "best.safetensors"

    return make


def nested(number):
    return {str(i): {"lr": 0.1, "of": [{"x": i}]} for i in range(number)}


REFUSED = {
    "timm's file of resnetaa50": (named("resnetaa50_a1h-4cf422b3.pth"), AVERAGE),
    "timm's file of resnetblur50": (named("resnetblur50-84f4748f.pth"), BLUR),
    "a dilated one": (named("dilated_resnet50_voc.pth"), "dilation in place of the last strides"),
    "timm's config of resnetaa50": (described(architecture="resnetaa50", num_classes=3), AVERAGE),
    "timm's config of resnetblur50": (described(architecture="resnetblur50"), BLUR),
    "a config of blur pools": (described(architecture="resnet50", model_args={"aa_layer": "blurpool"}), "aa_layer"),
    "a config of another activation": (described(architecture="resnet50", model_args={"act_layer": "silu"}), "silu"),
    "a config of dilation": (described(architecture="resnet50", model_args={"output_stride": 8}), "output_stride=8"),
    "a config of another pool": (described(architecture="resnet50", global_pool="catavgmax"), "catavgmax"),
    "a config of an unknown one": (described(architecture="xresnet50"), "a network that is not built here"),
    "transformers' with another activation": (described(model_type="resnet", hidden_act="gelu"), "hidden_act='gelu'"),
    "transformers' with an early stride": (
        described(model_type="resnet", hidden_act="relu", downsample_in_first_stage=True),
        "downsample_in_first_stage=True",
    ),
    "a checkpoint's arch": (entries(arch="resnetblur50", epoch=3), BLUR),
    "a checkpoint's options of timm": (entries(arch="resnet50", args=Namespace(model="resnetaa50", lr=0.1)), AVERAGE),
    "a checkpoint's options of layers": (
        entries(args=Namespace(model="resnet50", model_kwargs={"aa_layer": "avg"})),
        "aa_layer='avg'",
    ),
    "timm's epsilon": (described(architecture="resnet50", model_args={"bn_eps": 1e-3}), "bn_eps=0.001"),
    "torchvision's dilation": (
        entries(args={"arch": "resnet50", "replace_stride_with_dilation": [False, True, True]}),
        "replace_stride_with_dilation=[False, True, True]",
    ),
    "DETR's dilation": (entries(args=Namespace(backbone="resnet50", dilation=True)), "dilation=True"),
    "OpenMMLab's dilations": (
        entries(meta={"config": {"model": {"backbone": {"type": "ResNet", "dilations": (1, 1, 2, 4)}}}}),
        "dilations=(1, 1, 2, 4)",
    ),
    "capital letters": (entries(cfg={"MODEL": {"Backbone": {"NAME": "resnetaa50"}}}), AVERAGE),
    "an encoder's name": (entries(hparams={"encoder_name": "resnetblur50"}), BLUR),
    "options at the top": (entries(arch="resnet50", model_args={"act_layer": "gelu"}), "act_layer='gelu'"),
    "a command line": (entries(argv=["train.py", "--model", "resnetaa50", "--lr", "1"]), AVERAGE),
    "a command line in one text": (entries(run={"command": "python train.py --arch=resnetblur50"}), BLUR),
    "JSON as a text": (entries(config=json.dumps({"model": {"name": "resnetaa50"}})), AVERAGE),
    "metadata of safetensors": (metadata(format="pt", architecture="resnetaa50"), AVERAGE),
    "metadata of safetensors in JSON": (metadata(config=json.dumps({"backbone": "resnetblur50"})), BLUR),
    "Lightning's hyperparameters": (entries(hyper_parameters={"backbone": "resnetaa50", "lr": 1}), AVERAGE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_to_be_another_is_refused(name, tmp_path, capsys):
    make, said = REFUSED[name]
    path = make(tmp_path)
    for load in (lambda: load_model(path), lambda: load_model(path, "resnet50"), lambda: load_weights(MODEL, path)):
        with pytest.raises(ValueError, match="not those of a network that is built here") as error:
            load()
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    assert main(["inspect", str(path)]) == 0
    assert said in capsys.readouterr().out
    assert main(["convert", str(path), "--out", str(tmp_path / "out.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


TAKEN = {
    "torchvision's file": (named("resnet50-11ad3fa6.pth"), {}),
    "timm's file": (named("resnet50_a1_0-14fe96d1.pth"), {}),
    "timm's config": (described(architecture="resnet50", pretrained_cfg={"crop_pct": 0.95}, global_pool="avg"), {}),
    "transformers' config": (described(model_type="resnet", hidden_act="relu", downsample_in_bottleneck=False), {}),
    "a wrapper of timm's": (described(architecture="resnet50.a1_in1k", model_type="timm_wrapper"), {}),
    "PyTorch's example": (entries(arch="resnet50", epoch=3), {}),
    "timm's config with its usual options": (
        described(architecture="resnet50", model_args={"bn_eps": 1e-5, "act_layer": "relu", "output_stride": 32}),
        {},
    ),
    "torchvision's without dilation": (
        entries(args={"arch": "resnet50", "replace_stride_with_dilation": [False, False, False], "dilation": False}),
        {},
    ),
    "timm's options of augmentation": (entries(args=Namespace(model="resnet50", aa="rand-m9-mstd0.5-inc1")), {}),
    "options of a decoder and of a teacher": (
        entries(cfg={"decoder": {"dilation": 4}, "teacher": {"name": "resnetaa50"}, "text": {"hidden_act": "gelu"}}),
        {},
    ),
    "names of losses and layers": (
        entries(meta={"config": {"neck": {"type": "DilatedEncoder", "init": {"type": "Caffe2Xavier"}}}}),
        {},
    ),
    "dicts in each other": (entries(run=nested(5000)), {}),
    "OpenMMLab's of Caffe by its options": (
        entries(meta={"config": {"model": {"backbone": {"type": "ResNet", "style": "caffe"}}}}),
        {"bottleneck_stride": "v1"},
    ),
    "a config that cannot be read": (lambda folder: _damaged(folder), {}),
    "OpenMMLab's of Caffe": (named("resnet50_caffe-788b5fa3.pth"), {"bottleneck_stride": "v1"}),
    "Detectron's of MSRA": (named("resnet50_msra-5891d200.pth"), {"bottleneck_stride": "v1"}),
    "transformers' with the first stride": (
        described(model_type="resnet", downsample_in_bottleneck=True),
        {"bottleneck_stride": "v1"},
    ),
}


def _damaged(folder):
    save_file(STATE, folder / "model.safetensors")
    (folder / "config.json").write_text("{")
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_said_to_be_ours_is_taken(name, tmp_path):
    make, options = TAKEN[name]
    path = make(tmp_path)
    loaded = load_model(path)
    assert loaded.model == MODEL.clone(**options)
    check_same(loaded.variables, RIGHT)
    if options:
        with pytest.raises(ValueError, match="need a model built with bottleneck_stride='v1'"):
            load_weights(MODEL, path)


@pytest.mark.parametrize(
    ("model", "arch", "alike"),
    [
        (MODEL, "resnet50", ["resnetaa", "resnetblur", "bottlenecks of 2015", "DeepLab", "SAME"]),
        (resnet20(width=2), "resnet20", ["fb.resnet.torch's shortcut A", "a plain network"]),
        (vgg11(width=1), "vgg11", ["VGG of Caffe"]),
    ],
    ids=["resnet50", "resnet20", "vgg11"],
)
def test_where_nothing_says_which_it_is_the_others_are_named(model, arch, alike, tmp_path, capsys, caplog):
    path = save_weights(model, drawn(model), tmp_path / "best.pth")
    (note,) = load_model(path).notes
    assert f"are taken for {arch} by names and shapes alone" in note
    assert note in caplog.text
    assert main(["inspect", str(path)]) == 0
    assert note in capsys.readouterr().out
    for each in (*alike, "other activations than ReLU"):
        assert each in note
    path = save_weights(model, drawn(model), tmp_path / f"{arch}_best.pth")
    assert load_model(path).notes == ()


NOTED = {
    "a name with a word of its own": named("deeplab_resnet50_voc.pth"),
    "a name with a kind of its own": named("resnet50_fcn.pth"),
    "a folder's name": lambda folder: named("best.pth")((folder / "resnet50").mkdir() or folder / "resnet50"),
    "a checkpoint's arch": entries(arch="resnet50"),
    "a backbone's name": entries(hyper_parameters={"backbone": "resnet50"}),
    "metadata without a name": metadata(format="pt"),
    "a config of another network": described(model_type="detr"),
}
SILENT = {
    "torchvision's file": named("resnet50-11ad3fa6.pth"),
    "a best one": named("resnet50_best.pth.tar"),
    "timm's config": described(architecture="resnet50"),
    "timm's config with a tag": described(architecture="resnet50.a1_in1k"),
    "our own with a card": lambda folder: save_weights(MODEL, RIGHT, folder / "w.safetensors"),
    "our own of a network without a name": lambda folder: save_weights(
        MODEL.clone(stage_sizes=(1, 1, 1, 1)), drawn(MODEL.clone(stage_sizes=(1, 1, 1, 1))), folder / "w.safetensors"
    ),
}


@pytest.mark.parametrize("name", [*NOTED, *SILENT])
def test_only_an_exact_statement_silences_the_note(name, tmp_path):
    notes = load_model({**NOTED, **SILENT}[name](tmp_path)).notes
    assert [note for note in notes if "by names and shapes alone" in note] == list(notes)
    assert len(notes) == (name in NOTED)


def test_the_reason_of_a_config_comes_first_in_inspect(tmp_path, capsys):
    """Also of a network that fits nothing."""
    save_file({**STATE, "conv1.0.weight": STATE["conv1.weight"]}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "xresnet50"}))
    assert main(["inspect", str(tmp_path)]) == 0
    assert "note      weights" in (out := capsys.readouterr().out)
    assert "its config.json says 'xresnet50'" in out.partition("note ")[2].partition("\n")[0]


def test_a_file_s_name_chooses_among_those_that_fit(tmp_path):
    path = save_weights(plain20(), drawn(plain20()), tmp_path / "my_plain20.pth")
    assert load_model(path).model == plain20()


def test_a_repository_of_the_hub_says_which_network_it_is(tmp_path, monkeypatch):
    """By its name, and by its config.json, which is fetched beside the weights."""
    save_file(STATE, tmp_path / "model.safetensors")
    config, asked = tmp_path / "elsewhere.json", []

    def hf_hub_download(repository, file):
        asked.append((repository, file))
        if file == "config.json" and not config.exists():
            raise OSError("404")
        return str(config if file == "config.json" else tmp_path / "model.safetensors")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    check_same(load_weights(MODEL, "hf://timm/resnet50.a1_in1k"), RIGHT)
    with pytest.raises(
        ValueError, match=r"its address says 'timm/resnetaa50\.a1h_in1k': average pools where it strides"
    ):
        load_weights(MODEL, "hf://timm/resnetaa50.a1h_in1k")
    config.write_text(json.dumps({"architecture": "resnetblur50"}))
    with pytest.raises(ValueError, match=r"its config\.json says 'resnetblur50': blur pools where it strides"):
        load_weights(MODEL, "hf://owner/mine")
    assert asked[-2:] == [("owner/mine", "model.safetensors"), ("owner/mine", "config.json")]


def test_a_snapshot_of_the_hub_says_it_too(tmp_path):
    folder = tmp_path / "models--timm--resnetaa50.a1h_in1k" / "snapshots" / "0123"
    folder.mkdir(parents=True)
    save_file(STATE, folder / "model.safetensors")
    with pytest.raises(ValueError, match="its address says 'timm/resnetaa50"):
        load_weights(MODEL, folder)

"""Weights by name: the table, the cache, and every command that takes weights."""

import hashlib
import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import jax
import msgspec
import numpy as np
import pytest
import references
from drawn import check_same, drawn
from https_server import certificate, send, serving
from PIL import Image

from resnet_flax import resnet18, resnet20
from training_flax.inference.command import main as predict
from weights_flax import ARCHS, build_model, load_model, load_weights, read_card, save_weights, to_torch
from weights_flax.__main__ import main
from weights_flax.io import download
from weights_flax.io.published import cache_folder, fetched, find, kept, open_source, published_as, table

EVERY = {row.name: row for row in table().rows}
# All names of weights of networks that are called like ours, by network.
LISTED = {
    name: each["arch"]
    for each in json.loads((references.GOLDEN / "published_names.json").read_text())
    for name in each["names"]
}
NOT_OURS = {
    "timm:resnet50.bamboo": "115,217 classes",
    "torchvision:VGG16_Weights.IMAGENET1K_FEATURES": "no classifier",
}
V2 = "torchvision:ResNet50_Weights.IMAGENET1K_V2"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no cache of torch.hub's, and a proxy that refuses: nothing leaves this machine."""
    monkeypatch.setenv("WEIGHTS_FLAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def trusted(pem, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))


# The table.


def test_the_table_has_all_that_is_published_of_our_architectures():
    ours = {name for name, arch in LISTED.items() if arch in ARCHS} - NOT_OURS.keys()
    assert len(ours) > 80
    assert ours == EVERY.keys()
    assert NOT_OURS.keys() <= LISTED.keys()


def test_look_alikes_are_not_in_the_table():
    assert {"resnetaa50", "resnetblur50", "densenetblur121d", "resnet50d", "resnet50_gn"} < set(LISTED.values())
    assert all(row.arch == LISTED[name] for name, row in EVERY.items())


def test_every_row_makes_sense():
    assert len(EVERY) == len(table().rows)
    for row in table().rows:
        address = urlsplit(row.address)
        library = row.name.partition(":")[0]
        assert (address.scheme, address.netloc) == (
            "https",
            {"torchvision": "download.pytorch.org", "timm": "huggingface.co"}[library],
        )
        if library == "torchvision":
            assert row.address.endswith(f"-{row.sha256}.pth")
            assert 60 < row.top1 < row.top5 < 100
        else:
            assert address.path == f"/timm/{row.name.partition(':')[2]}/resolve/main/model.safetensors"
            assert (row.sha256, row.top1, row.top5) == (None, None, None)
            assert row.licence in ("apache-2.0", "bsd-3-clause", "cc-by-nc-4.0")
        assert row.interpolation in ("bilinear", "bicubic") and row.crop_rule == library
        assert len(row.mean) == len(row.std) == 3 and 0 < min(row.mean) <= max(row.mean) < 1
        assert 0.8 < row.crop <= 1 and 160 <= row.image_size <= 320
        assert row.arch in ARCHS and build_model(row.arch).num_classes == 1000
    assert len({row.file for row in table().rows}) == len(EVERY)


def test_values_are_those_of_the_libraries_pages():
    row = EVERY[V2]
    assert (row.arch, row.image_size, round(row.image_size / row.crop)) == ("resnet50", 224, 232)
    assert (row.top1, row.top5, row.interpolation) == (80.858, 95.434, "bilinear")
    row = EVERY["timm:resnet50.a1_in1k"]
    assert (row.image_size, row.crop, row.interpolation, row.licence) == (224, 0.95, "bicubic", "apache-2.0")
    assert row.mean == (0.485, 0.456, 0.406) and row.std == (0.229, 0.224, 0.225)
    assert EVERY["torchvision:DenseNet121_Weights.IMAGENET1K_V1"].top1 == 74.434


def test_the_classes_are_those_of_imagenet():
    assert len(table().classes) == 1000
    places = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert {place: table().classes[place] for place in places} == places
    assert "Copyright (c) Soumith Chintala" in table().notice


# Names.


@pytest.mark.parametrize(
    "name, full",
    {
        "torchvision:resnet50": V2,
        "torchvision:ResNet50_Weights.DEFAULT": V2,
        V2: V2,
        "timm:resnet50": "timm:resnet50.a1_in1k",
        "timm:vgg16": "timm:vgg16.tv_in1k",
        "torchvision:densenet121": "torchvision:DenseNet121_Weights.IMAGENET1K_V1",
    }.items(),
)
def test_a_name_without_a_choice_is_its_librarys_default(name, full):
    assert find(name) == EVERY[full]


UNKNOWN = {
    "torchvision:resnet5O": "did you mean 'torchvision:resnet50'",
    "torchvision:ResNet50_Weights.IMAGENET1K_V3": "did you mean 'torchvision:ResNet50_Weights.IMAGENET1K_V2'",
    "timm:resnet50.a1_in1": "did you mean 'timm:resnet50.a1_in1k'",
    "timm:": "unknown weights 'timm:'",
    "torchvision:x\x1b[2J\n": r"unknown weights 'torchvision:x\x1b[2J\n'",
    "torchvision:../../etc/passwd": "unknown weights",
    "timm:https://example.org/model.safetensors": "unknown weights",
    "torchvision:VGG16_Weights.IMAGENET1K_FEATURES": "its classifier has no values",
    "resnet50.a1_in1k": "there is no such file; did you mean 'timm:resnet50.a1_in1k'",
    "timm/resnet50.a1_in1k": "there is no such file; did you mean 'timm:resnet50.a1_in1k'",
    "timm/resnet50": "there is no such file; did you mean 'timm:resnet50'",
    "ResNet50_Weights.IMAGENET1K_V2": f"there is no such file; did you mean '{V2}'",
    "torchvision.ResNet50_Weights.DEFAULT": "did you mean 'torchvision:ResNet50_Weights.DEFAULT'",
    "resnet50": "did you mean 'torchvision:resnet50'",
    "runs/resnet50": "there is no such file",
    "nothing.pth": "there is no such file",
}


@pytest.mark.parametrize("name, said", UNKNOWN.items(), ids=[name[:50].encode("unicode_escape") for name in UNKNOWN])
@pytest.mark.parametrize("take", [open_source, load_model, read_card, lambda name: load_weights(resnet20(), name)])
def test_unknown_names_are_one_line_that_names_the_nearest(name, said, take, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        take(name)
    assert "\n" not in str(error.value)
    assert "runs/" not in name or "did you mean" not in str(error.value)


@pytest.mark.parametrize("name", ["torchvision:resnet50", "timm:mine.npz", "torchvision:anything", "resnet50"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_of_such_a_name_comes_first(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = resnet20(width=4)
    variables = drawn(model)
    save_weights(model, variables, tmp_path / "w.npz")
    (tmp_path / "w.npz").rename(tmp_path / name)
    assert load_model(kind(name)).card["arch"] == "resnet20"
    check_same(load_weights(model, kind(name)), variables)


# The cache.

BODY = b"weights" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()


def row_at(address, name=V2, sha256=SHA256[:8]):
    return msgspec.structs.replace(find(name), address=address, sha256=sha256)


def listed(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_a_file_is_downloaded_once(pem, trusted, cache):
    asked = []

    def answer(handler):
        asked.append(handler.path)
        send(BODY)(handler)

    with serving(pem, {f"/net-{SHA256[:8]}.pth": answer}) as address:
        row = row_at(f"{address}/net-{SHA256[:8]}.pth")
        assert kept(row) is None
        assert fetched(row) == fetched(row) == kept(row) == cache / f"net-{SHA256[:8]}.pth"
    assert len(asked) == 1 and listed(cache) == [f"net-{SHA256[:8]}.pth"]
    assert fetched(row).read_bytes() == BODY  # the server has gone


def test_a_damaged_file_of_the_cache_is_downloaded_again(pem, trusted, cache):
    cache.mkdir()
    damaged = cache / f"net-{SHA256[:8]}.pth"
    damaged.write_bytes(BODY[:-1])
    with serving(pem, {f"/{damaged.name}": send(BODY)}) as address:
        row = row_at(f"{address}/{damaged.name}")
        assert fetched(row).read_bytes() == BODY
    damaged.write_bytes(BODY[:-2])
    with pytest.raises(ValueError, match=rf"; the file that is there has another hash than {SHA256[:8]}; fetch "):
        fetched(row)
    assert listed(cache) == [damaged.name]


def test_of_the_hub_the_hash_is_in_the_name_and_holds(pem, trusted, cache):
    name, here = "timm:resnet18.a1_in1k", "resnet18.a1_in1k.safetensors"
    with serving(pem, {"/model.safetensors": send(BODY, ETag=f'"{SHA256}"')}) as address:
        row = row_at(f"{address}/model.safetensors", name, None)
        path = fetched(row)
        assert path == cache / f"resnet18.a1_in1k-{SHA256[:8]}.safetensors"
        path.write_bytes(BODY[1:])
        assert kept(row) is None
        assert fetched(row).read_bytes() == BODY
    assert fetched(row) == path
    (cache / here).write_bytes(b"by hand")
    assert fetched(row) == cache / here  # a user put it there, and no table knows its hash


def test_torch_hubs_cache_is_looked_into(tmp_path, cache):
    row = row_at(f"https://download.pytorch.org/models/net-{SHA256[:8]}.pth")
    place = tmp_path / "torch" / "hub" / "checkpoints" / f"net-{SHA256[:8]}.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    assert fetched(row) == place
    place.write_bytes(BODY[1:])
    assert kept(row) is None
    assert listed(cache) == []


@pytest.mark.parametrize("name", [V2, "timm:resnet50.a1_in1k"])
def test_offline_one_line_says_what_to_fetch_and_where_to_put_it(name, cache):
    row = find(name)
    with pytest.raises(ValueError, match=rf"^weights '{re.escape(name)}' cannot be fetched: ") as error:
        load_model(name)
    assert "cannot be reached: [Errno 111] Connection refused" in str(error.value)
    assert str(error.value).endswith(f"; fetch {row.address} by hand, and put it there as {str(cache / row.file)!r}")
    assert "\n" not in str(error.value)
    assert listed(cache) == []


def test_a_silent_network_is_told_in_ten_seconds(monkeypatch, cache, capsys):
    assert download.SECONDS <= 8
    monkeypatch.setattr(download, "SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert main(["inspect", "timm:resnet50"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no answer in 0.5 seconds" in said and "by hand" in said
    assert listed(cache) == []


def test_a_cache_that_cannot_be_written_names_the_variable(pem, trusted, cache):
    cache.touch()
    with (
        serving(pem, {f"/net-{SHA256[:8]}.pth": send(BODY)}) as address,
        pytest.raises(ValueError, match=r"^weights '.*' cannot be kept: .*; WEIGHTS_FLAX_CACHE=FOLDER in the env"),
    ):
        fetched(row_at(f"{address}/net-{SHA256[:8]}.pth"))


def test_the_cache_is_the_users_unless_the_environment_names_another(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("WEIGHTS_FLAX_CACHE", "~/weights")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.setenv("WEIGHTS_FLAX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "resnet-densenet-flax" / "weights"


# Commands. The file of timm:resnet18.a1_in1k is there as if it had been fetched by hand.

NAME = "timm:resnet18.a1_in1k"


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """Random weights of resnet18 under timm's names, without a card."""
    path = tmp_path_factory.mktemp("by_hand") / "resnet18.a1_in1k.safetensors"
    model = resnet18()
    variables = jax.tree.map(lambda leaf: leaf * np.float32(0.1), drawn(model))
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value) for name, value in to_torch(model, variables).items()}, path)
    return path, variables


@pytest.fixture
def resnet18_here(by_hand, cache):
    cache.mkdir()
    (cache / by_hand[0].name).symlink_to(by_hand[0])
    return by_hand[1]


@pytest.mark.slow
def test_a_name_is_a_network_with_its_card(resnet18_here, caplog):
    loaded = load_model(NAME)
    check_same(loaded.variables, resnet18_here)
    assert loaded.model == resnet18()
    assert loaded.notes == () and caplog.records == []
    card = loaded.card
    assert card == read_card(NAME)
    assert card["class_names"][:2] == ["tench", "goldfish"] and len(card["class_names"]) == 1000
    assert card["normalisation"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert card["preprocessing"] == {"interpolation": "bicubic", "crop": 0.95, "crop_rule": "timm"}
    assert (card["arch"], card["image_shape"], card["licence"]) == ("resnet18", [224, 224, 3], "apache-2.0")
    assert card["source"] == f"timm resnet18.a1_in1k, {find(NAME).address}"
    check_same(load_weights(resnet18(), NAME), resnet18_here)
    five = load_model(NAME, new_head=True, num_classes=5)
    assert five.model == resnet18(num_classes=5)


def test_weights_of_another_network_are_refused(resnet18_here):
    with pytest.raises(ValueError, match="are not those of resnet34"):
        load_model(NAME, "resnet34")
    with pytest.raises(ValueError, match="have 1000 classes, the model has 10"):
        load_weights(resnet18(num_classes=10), NAME)
    with pytest.raises(ValueError, match="asked for: averaged"):
        load_model(NAME, which="averaged")


def test_predict_shows_names_and_sees_images_as_published(resnet18_here, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)).save(tmp_path / "photo.png")
    assert predict(["--weights", NAME, "--json", "--top", "3", str(tmp_path / "photo.png")]) == 0
    out, err = capsys.readouterr()
    for each in json.loads(out)["classes"]:
        assert each["class"] == table().classes[each["index"]]
    assert "crops 0.95 of the shorter side, bicubic, rounded as by timm" in err
    assert "resnet18, 1000 classes, sees 224×224 pixels, mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in err
    assert "no names of classes" not in err and "stand for them" not in err


def test_inspect_and_convert_name_what_is_published(resnet18_here, tmp_path, capsys):
    assert main(["inspect", NAME]) == 0
    out = capsys.readouterr().out
    assert f"source    timm resnet18.a1_in1k, {find(NAME).address}" in out
    assert "class names tench, goldfish, great white shark" in out
    assert "note " not in out
    assert main(["convert", NAME, "--out", str(tmp_path / "mine.npz")]) == 0
    card = read_card(tmp_path / "mine.npz")
    assert card["source"].startswith("timm resnet18.a1_in1k, https://") and card["class_names"][0] == "tench"


def test_a_file_of_a_published_name_is_said_to_be_it(tmp_path, capsys):
    row = find("torchvision:resnet18")
    assert published_as(Path("x", row.file)) == row.name
    assert published_as(Path("resnet18.pth")) is None
    model = resnet18(width=4)
    save_weights(model, drawn(model), tmp_path / "w.pth")
    (tmp_path / "w.pth").rename(tmp_path / row.file)
    assert main(["inspect", str(tmp_path / row.file)]) == 0
    assert f"note      its name is that of {row.name}" in capsys.readouterr().out


def test_list_prints_the_table_of_an_architecture_and_the_facts_of_a_name(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in EVERY)
    assert main(["list", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^torchvision:ResNet50_Weights\.IMAGENET1K_V2 +resnet50 +224 +0\.966 +bilinear +80\.86 % +95\.43 %", out, re.M
    )
    assert f"torchvision:resnet50 is {V2}\n" in out and "densenet121" not in out
    assert main(["list", "torchvision:resnet50"]) == 0
    out = capsys.readouterr().out
    assert find(V2).address in out and "11ad3fa6" in out and "80.858" in out
    assert main(["list", "plain18"]) == 0
    assert "publish no weights of plain18" in capsys.readouterr().out
    assert main(["list", "densnet121"]) == 2
    assert "did you mean 'densenet121'" in capsys.readouterr().err

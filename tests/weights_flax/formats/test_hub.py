"""Addresses of the hub, which are refused or handed to the library as they are."""

import logging
import sys
import time
from types import SimpleNamespace

import pytest

from weights_flax.formats import hub
from weights_flax.formats.hub import download, said_beside

RIGHT = {
    "hf://owner/name": ("owner/name", "model.safetensors"),
    "hf://owner/name/a.pth": ("owner/name", "a.pth"),
    "hf://my-org/v1.2_b/folder/part-00001-of-00002.safetensors": (
        "my-org/v1.2_b",
        "folder/part-00001-of-00002.safetensors",
    ),
    "hf://timm/a/b--c..d/...": ("timm/a", "b--c..d/..."),
    "hf://timm/a/Modell für Löwen (1).npz": ("timm/a", "Modell für Löwen (1).npz"),
}
WRONG = [
    *("hf:owner/name", "hf:///name", "hf://owner", "hf://owner/", "hf://owner/name/", "hf://"),
    *("hf://../name", "hf://owner/..", "hf://./name", "hf://.hidden/name", "hf://owner/a..b", "hf://a--b/name"),
    *("hf://owner/name/..", "hf://owner/name/../x", "hf://owner/name/a/../../b", "hf://owner/name/a/..", "hf://o/n/."),
    *("hf://owner/name//etc/passwd", "hf://owner/name/a//b", "hf://owner/name/~/../a"),
    *("hf://owner/name/..\\x", "hf://owner/name/C:\\x", "hf://owner\\name/a"),
    *("hf://owner/name/%2e%2e/a", "hf://owner/name/a%2Fb", "hf://%2e%2e/name"),
    *("hf://owner/name/a?download=1", "hf://owner/name/a#b", "hf://owner/name?x/a"),
    *("hf://user:password@host/name/a", "hf://owner/name@main/a", "hf://host:80/name"),
    *(
        "hf://owner/name/a\n",
        "hf://owner/name\n",
        "hf://owner/na\x00me",
        "hf://owner/name/a\x1b[2J",
        "hf://owner/na me",
    ),
    *("hf://öwner/name", "hf://owner/name/．．/a", "hf://owner/name/\u202egpj", f"hf://owner/name/{'a' * 256}"),
]


@pytest.fixture(autouse=True)
def no_silence(monkeypatch):
    """A process in which no hub was out of reach before."""
    monkeypatch.setattr(hub, "_silences", [])


@pytest.fixture
def asked(monkeypatch):
    """The questions that reach the hub's library, which is not needed here."""
    asked = []

    def hf_hub_download(*arguments):
        asked.append(arguments)
        return "/cache/file"

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    return asked


@pytest.mark.parametrize("address", RIGHT)
def test_an_address_names_a_repository_and_a_file(address, asked):
    assert str(download(address)) == "/cache/file"
    assert asked == [RIGHT[address]]


@pytest.mark.parametrize("address", WRONG)
def test_other_addresses_do_not_reach_the_library(address, asked):
    with pytest.raises(
        ValueError, match=r"^an address of the hub is hf://OWNER/NAME or hf://OWNER/NAME/FILE; "
    ) as error:
        download(address)
    assert "\n" not in str(error.value)
    assert asked == []


def refusing(*arguments):
    """Asks as huggingface_hub does: again and again, with two lines each time."""
    told = logging.getLogger("huggingface_hub.utils._http")
    for number in range(6):
        told.warning("'[Errno -2] Name or service not known' thrown while requesting HEAD https://hub/model")
        told.warning(f"Retrying in {number}s [Retry {number}/5].")
        time.sleep(0.05 if number < 4 else 60)


def silent(*arguments):
    time.sleep(60)


@pytest.mark.parametrize("fetch", [refusing, silent])
@pytest.mark.parametrize("kept", [None, "/cache/kept"])
def test_a_hub_out_of_reach_is_told_once_or_the_cache_serves(fetch, kept, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(hub, "MOST_SECONDS", 0.3)
    library = dict(hf_hub_download=fetch, try_to_load_from_cache=lambda *_: kept)
    library["constants"] = SimpleNamespace(HF_HUB_CACHE=str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(**library))
    start = time.monotonic()
    if kept:
        assert str(download("hf://owner/name")) == kept
    else:
        why = "[Errno -2] Name or service not known" if fetch is refusing else "no answer"
        with pytest.raises(ValueError, match=r"^hf://owner/name cannot be had: the hub cannot be reached ") as error:
            download("hf://owner/name")
        assert why in str(error.value)
        assert str(error.value).endswith(", and the file is not in the cache")
    assert time.monotonic() - start < 5
    assert caplog.records == []


def test_a_download_that_has_begun_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "MOST_SECONDS", 0.1)

    def slow(*arguments):
        part = tmp_path / "models--owner--name" / "blobs" / "a.incomplete"
        part.parent.mkdir(parents=True)
        part.touch()
        time.sleep(1)
        return "/cache/file"

    library = SimpleNamespace(hf_hub_download=slow, constants=SimpleNamespace(HF_HUB_CACHE=str(tmp_path)))
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    assert str(download("hf://owner/name")) == "/cache/file"


def test_after_a_hub_out_of_reach_only_the_cache_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "MOST_SECONDS", 0.3)
    asked = []

    def fetch(*arguments):
        asked.append(arguments)
        time.sleep(60)

    library = dict(hf_hub_download=fetch, try_to_load_from_cache=lambda _, file: "/cache/b" if file == "b" else None)
    library["constants"] = SimpleNamespace(HF_HUB_CACHE=str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(**library))
    for file in ("a", "b", "c"):
        if file == "b":
            assert str(download("hf://owner/name/b")) == "/cache/b"
        else:
            with pytest.raises(ValueError, match=f"^hf://owner/name/{file} cannot be had: the hub cannot be reached"):
                download(f"hf://owner/name/{file}")
    assert asked == [("owner/name", "a")]


class EntryNotFoundError(Exception):
    """The library's error for a file that is not in a repository."""


@pytest.mark.parametrize("kept", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", None])
def test_without_a_file_the_usual_ones_are_tried(kept, monkeypatch):
    asked = []

    def fetch(_, file):
        asked.append(file)
        if file == kept:
            return f"/cache/{file}"
        raise EntryNotFoundError(f"no {file}")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=fetch))
    if kept:
        assert str(download("hf://owner/name")) == f"/cache/{kept}"
        assert asked[-1] == kept
    else:
        with pytest.raises(ValueError, match=r"^hf://owner/name cannot be had: no model\.safetensors$"):
            download("hf://owner/name")
        assert asked == list(hub.WHOLE)


def test_pre_processing_of_transformers_is_downloaded_with_the_weights(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "downsample_in_bottleneck": false}')
    asked = []

    def fetch(_, file):
        asked.append(file)
        return str(tmp_path / file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=fetch))
    said = said_beside(tmp_path / "model.safetensors", "hf://owner/name")
    assert [each.name for each in said] == ["model.safetensors", "owner/name", "resnet"]
    assert asked == ["preprocessor_config.json"]

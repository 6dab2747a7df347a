"""Makes weights_flax/io/published.json: the weights that torchvision and timm publish for the networks built here.

Needs torchvision, timm, huggingface_hub and this project; JAX_DISABLE_MOST_OPTIMIZATIONS=1 makes it faster. All
values are read out of the libraries' own tables, addresses too. Of each network's name that is one of `ARCHS` the
library's network, built without memory, must have our names and shapes, and with random weights the same logits.
published_names.json beside this file has the names of all weights of networks that are called like ours.
"""

import importlib.metadata
import json
import math
import re
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import jax
import numpy as np
import timm
import torch
import torchvision
from timm.models import _hub
from timm.models._registry import _model_default_cfgs as timm_tables
from torchvision import models

from weights_flax import build_model, load_weights
from weights_flax.formats.tensors import from_memory
from weights_flax.io.archs import ARCHS
from weights_flax.io.inspect import fitting
from weights_flax.names.candidates import candidates

NAMES = Path(__file__).with_name("published_names.json")
TARGET = Path(__file__).parents[2] / "weights_flax" / "io" / "published.json"
NAME_OF_HASH = re.compile(r"-([a-f0-9]{8})\.pth")  # as torch.hub reads it
FAMILIES = re.compile("densenet|resne|vgg|wide_resnet")  # the others have no names of ours
# Weights that no network can be evaluated with.
LEFT_OUT = {"torchvision:VGG16_Weights.IMAGENET1K_FEATURES": "its classifier has no values, only its features have"}


def check(name, build):
    """Asserts that a library's network and ours of this name have the same tensors and the same logits."""
    with torch.device("meta"):
        shapes = {key: np.broadcast_to(np.float32(0), value.shape) for key, value in build().state_dict().items()}
    (found,) = candidates(from_memory(shapes))
    assert dict(fitting(found.naming, found.tensors))[name] == {"num_classes": 1000}, name
    torch.manual_seed(0)
    theirs = build().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else like those of a new network
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    side = 224 if "vgg" in name else 64
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        wanted = theirs(images).numpy()
    ours = build_model(name)
    variables = load_weights(ours, {key: value.numpy() for key, value in theirs.state_dict().items()})
    logits = jax.jit(partial(ours.apply, train=False))(variables, images.numpy().transpose(0, 2, 3, 1))
    error = np.abs(np.asarray(logits) - wanted).max() / np.abs(wanted).max()
    print(f"{name}: {error:.1e}", flush=True)
    assert error < 1e-4, name


def of_torchvision(arch, weights):
    transform, meta = weights.transforms(), weights.meta
    ((size,), (resized,)) = transform.crop_size, transform.resize_size
    scores = meta["_metrics"].get("ImageNet-1K", {})
    return {
        "name": f"torchvision:{weights}",
        "arch": arch,
        "address": weights.url,
        "sha256": NAME_OF_HASH.search(weights.url)[1],
        "mean": list(transform.mean),
        "std": list(transform.std),
        "image_size": size,
        "crop": size / resized,
        "crop_rule": "torchvision",
        "interpolation": transform.interpolation.value,
        "top1": finite(scores.get("acc@1")),
        "top5": finite(scores.get("acc@5")),
        "licence": meta.get("license"),
    }


def of_timm(arch, tag, config):
    channels, height, width = config.input_size
    assert (channels, height) == (3, width) and config.crop_mode == "center" and not config.custom_load
    assert config.num_classes == 1000 and config.label_names is None and not config.hf_hub_filename
    safe = next(iter(_hub._get_safe_alternatives(_hub.HF_WEIGHTS_NAME)))
    return {
        "name": f"timm:{arch}.{tag}",
        "arch": arch,
        "address": huggingface_hub.hf_hub_url(config.hf_hub_id, safe),
        "sha256": None,  # the hub tells it with the file
        "mean": list(config.mean),
        "std": list(config.std),
        "image_size": height,
        "crop": config.crop_pct,
        "crop_rule": "timm",
        "interpolation": config.interpolation,
        "top1": None,  # not in the package
        "top5": None,
        "licence": config.license,
    }


def finite(value):
    return value if value is not None and math.isfinite(value) else None


rows, defaults, classes, names = [], {}, None, []
for name in models.list_models(module=models):
    if not FAMILIES.match(name):
        continue
    kind = models.get_model_weights(name)
    names.append({"arch": name, "names": [f"torchvision:{weights}" for weights in kind]})
    if name not in ARCHS:
        continue
    check(name, partial(models.get_model, name))
    for weights in kind:
        if f"torchvision:{weights}" not in LEFT_OUT:
            rows.append(of_torchvision(name, weights))
            classes = classes or weights.meta["categories"]
            assert weights.meta["categories"] == classes
    defaults |= {f"torchvision:{each}": f"torchvision:{kind.DEFAULT}" for each in (name, f"{kind.__name__}.DEFAULT")}
for arch, table in timm_tables.items():
    published = [tag for tag, config in table.cfgs.items() if config.has_weights]
    if not FAMILIES.match(arch) or not published:
        continue
    names.append({"arch": arch, "names": [f"timm:{arch}.{tag}" for tag in published]})
    if arch not in ARCHS:
        continue
    check(arch, partial(timm.create_model, arch))
    for tag in published:
        config = timm.models.get_pretrained_cfg(f"{arch}.{tag}")  # with its address
        if config.num_classes == 1000:
            rows.append(of_timm(arch, tag, config))
    defaults[f"timm:{arch}"] = f"timm:{arch}.{next(iter(table.tags))}"
order = list(ARCHS)
rows.sort(key=lambda row: order.index(row["arch"]))  # else as the libraries list them
assert all(urlsplit(row["address"]).scheme == "https" for row in rows)
assert set(defaults.values()) <= {row["name"] for row in rows}
libraries = {
    "torchvision": {"version": torchvision.__version__.partition("+")[0], "licence": "BSD-3-Clause"},
    "timm": {"version": timm.__version__, "licence": "Apache-2.0"},
}
(notice,) = (each for each in importlib.metadata.files("torchvision") if each.name == "LICENSE")
parts = [f'"libraries": {json.dumps(libraries)}', f'"notice": {json.dumps(notice.read_text())}']
for title, values in (("defaults", defaults), ("left_out", LEFT_OUT)):
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    parts.append(f'"{title}": {{\n{lines}\n}}')
for title, values in (("rows", rows), ("classes", classes)):
    lines = ",\n".join(map(json.dumps, values))
    parts.append(f'"{title}": [\n{lines}\n]')
NAMES.write_text("[\n" + ",\n".join(map(json.dumps, names)) + "\n]\n")
TARGET.write_text("{\n" + ",\n".join(parts) + "\n}\n")
print(len(rows), "rows of", len({row["arch"] for row in rows}), "architectures,", len(classes), "classes")

"""Names of DenseNets under PyTorch: torchvision's."""

import re


def module_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the module at `path`."""
    return ".".join(path if path[0] == "classifier" else ("features", *path))


def present_name(name: str) -> str:
    """A tensor's name as it is spelt now: old files have `denselayer1.norm.1` for `denselayer1.norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)", r"\1", name)

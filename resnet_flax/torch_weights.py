"""Names of ResNets, plain networks and VGGs under PyTorch: torchvision's.

Modules in a list, `layer1_0` or `features_3` here, are `layer1.0` and `features.3` there. What torchvision has not,
the pre-activation networks, follows the same rule.
"""

import re


def module_name(path: tuple[str, ...]) -> str:
    """PyTorch's name of the module at `path`."""
    return ".".join(re.sub(r"_(\d+)$", r".\1", module) for module in path)

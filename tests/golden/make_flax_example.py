"""Stores logits of the ResNets of Flax's ImageNet example, in float64, and the names and shapes of their variables.

JAX_ENABLE_X64=1 python tests/golden/make_flax_example.py FOLDER    (FOLDER is examples/imagenet of Flax)

Variables and images are not stored: `references.flax_tensor` draws them from names and shapes alone.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from references import flax_tensor  # noqa: E402


def main(folder):
    sys.path.insert(0, folder)
    import models

    stored, manifests = {}, {}
    for name in ("ResNet18", "ResNet50"):
        model = getattr(models, name)(num_classes=20, dtype=jnp.float64)
        images = np.random.default_rng(0).standard_normal((2, 64, 64, 3))
        shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        flat = {"/".join(path): leaf.shape for path, leaf in flatten_dict(shapes).items()}
        variables = unflatten_dict({tuple(path.split("/")): flax_tensor(path, shape) for path, shape in flat.items()})
        stored[name] = np.asarray(model.apply(variables, images, train=False))
        manifests[name] = list(flat.items())
        print(name, np.abs(stored[name]).max())
    (HERE / "flax_example.json").write_text(json.dumps(manifests))
    np.savez_compressed(HERE / "flax_example.npz", **stored)


if __name__ == "__main__":
    main(sys.argv[1])

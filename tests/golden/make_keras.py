"""Stores logits of Keras applications' networks, in float64, and the names and shapes of their weights.

KERAS_BACKEND=jax JAX_ENABLE_X64=1 python tests/golden/make_keras.py    (needs: pip install keras jax)

Keras' BatchNorm rounds to float32 on the way.
Weights and images are not stored: `references.flax_tensor` draws them from names and shapes alone.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from references import flax_tensor  # noqa: E402


def main():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    stored = {}
    for name, size in (("ResNet50", 64), ("DenseNet121", 64), ("VGG16", 224)):
        model = getattr(keras.applications, name)(
            weights=None, input_shape=(size, size, 3), classifier_activation=None, classes=20
        )
        manifest = []
        for layer in model.layers:
            values = []
            for weight in layer.weights:
                full = f"{layer.name}/{layer.name}/{weight.name}"
                manifest.append([full, list(weight.shape)])
                values.append(flax_tensor(full, tuple(weight.shape)))
            if values:
                layer.set_weights(values)
        images = np.random.default_rng(0).standard_normal((2, size, size, 3))
        stored[name] = np.asarray(model(images, training=False))
        (HERE / f"keras_{name}.json").write_text(json.dumps({"keras": keras.__version__, "manifest": manifest}))
        print(name, np.abs(stored[name]).max())
    np.savez_compressed(HERE / "keras.npz", **stored)


if __name__ == "__main__":
    main()

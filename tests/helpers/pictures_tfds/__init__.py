"""Small data sets of TFDS, which are prepared in a second and without TensorFlow. TFDS wants builders in a package."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def pixels(split, index, shape=(4, 5, 3)):
    return np.random.default_rng((len(split), index)).integers(0, 256, shape, np.uint8)


class Pictures(tfds.core.GeneratorBasedBuilder):
    """What tests change: features, splits as {name: labels}, and each image's shape."""

    VERSION = tfds.core.Version("1.0.0")
    SUPPORTED_VERSIONS = [tfds.core.Version("1.0.0")]
    image = tfds.features.Image(shape=(None, None, 3))
    label = tfds.features.ClassLabel(names=["cat", "dog", "eel"])
    keys = ("image", "label")
    splits = {"train": [0, 1, 2] * 4, "test": [2, 1, 0]}

    @staticmethod
    def shape(index):
        return (4, 5, 3)

    def _info(self):
        features = dict(zip(self.keys, (self.image, self.label), strict=True))
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, labels) for split, labels in self.splits.items()}

    def _generate_examples(self, split, labels):
        for index, label in enumerate(labels):
            file = io.BytesIO()
            image = pixels(split, index, self.shape(index))
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
            file.seek(0)
            yield index, dict(zip(self.keys, (file, label), strict=True))


def prepare(data_dir, file_format="array_record", version="1.0.0", **changes):
    """Prepares `Pictures`, with other class attributes, under `data_dir`."""
    changes = {"VERSION": tfds.core.Version(version), "SUPPORTED_VERSIONS": [], "__module__": __name__} | changes
    builder = type(Pictures)("Pictures", (Pictures,), changes, skip_registration=True)
    tfds.disable_progress_bar()
    builder(data_dir=data_dir).download_and_prepare(file_format=file_format)

"""Makes tfds.tar.xz: nineteen kinds of small data sets as TensorFlow Datasets itself writes them.

python tests/golden/make_tfds.py  (needs tensorflow-cpu, tensorflow-datasets, array_record and pyarrow)
"""

import json
import os
import tarfile
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow_datasets as tfds

F = tfds.features
NUMBER = 12  # examples of a split
IMAGE, LABEL = F.Image(shape=(8, 8, 3)), F.ClassLabel(names=["a", "b", "c"])


def pixels(rng, shape=(8, 8, 3), dtype=np.uint8):
    return rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def plain(rng, index, split):
    return dict(image=pixels(rng), label=index % 3)


def builder(name, features, example, splits=("train", "test"), supervised=("image", "label"), configs=()):
    """Makes the class of a builder whose examples are example(random numbers, index, name of the split)."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features), supervised_keys=supervised)

    def generate(self, split):
        rng = np.random.default_rng(len(split))
        for index in range(NUMBER):
            yield index, example(rng, index, split)

    members = dict(
        VERSION=tfds.core.Version("1.0.0"),
        _info=info,
        _split_generators=lambda self, _: {split: self._generate_examples(split) for split in splits},
        _generate_examples=generate,
        __module__=__name__,
        pkg_dir_path=None,
    )
    if configs:
        version = tfds.core.Version("1.0.0")
        members["BUILDER_CONFIGS"] = [tfds.core.BuilderConfig(name=config, version=version) for config in configs]
    return type(name, (tfds.core.GeneratorBasedBuilder,), members)


def with_image(name, image, shape, dtype=np.uint8):
    return builder(
        name, dict(image=image, label=LABEL), lambda r, i, s: dict(image=pixels(r, shape, dtype), label=i % 3)
    )


def with_label(name, label, value):
    return builder(name, dict(image=IMAGE, label=label), lambda r, i, s: dict(image=pixels(r), label=value(i)))


KINDS = {
    "plain": builder("Plain", dict(image=IMAGE, label=LABEL), plain),
    "string_label_in": with_label("StringLabelIn", LABEL, lambda i: "abc"[i % 3]),
    "num_classes_only": with_label("NumClassesOnly", F.ClassLabel(num_classes=3), lambda i: i % 3),
    "jpeg": builder(
        "Jpeg",
        dict(image=F.Image(shape=(None, None, 3), encoding_format="jpeg"), label=LABEL),
        lambda r, i, s: dict(image=pixels(r, (20 + i, 30, 3)), label=i % 3),
    ),
    "grey": with_image("Grey", F.Image(shape=(8, 8, 1)), (8, 8, 1)),
    "rgba": with_image("Rgba", F.Image(shape=(8, 8, 4)), (8, 8, 4)),
    "sixteen": with_image("Sixteen", F.Image(shape=(8, 8, 1), dtype=np.uint16), (8, 8, 1), np.uint16),
    "floats": builder(
        "Floats",
        dict(image=F.Image(shape=(8, 8, 1), dtype=np.float32), label=LABEL),
        lambda r, i, s: dict(image=r.random((8, 8, 1), np.float32), label=i % 3),
    ),
    "tensor_image": with_image("TensorImage", F.Tensor(shape=(8, 8, 3), dtype=np.uint8), (8, 8, 3)),
    "int_label": with_label("IntLabel", F.Scalar(np.int64), lambda i: i % 3),
    "text_label": with_label("TextLabel", F.Text(), lambda i: "abc"[i % 3]),
    "other_keys": builder(
        "OtherKeys",
        dict(img=IMAGE, kind=LABEL, id=F.Text()),
        lambda r, i, s: dict(img=pixels(r), kind=i % 3, id=str(i)),
        supervised=("img", "kind"),
    ),
    "extra": builder(
        "Extra",
        dict(image=IMAGE, label=LABEL, coarse=F.ClassLabel(num_classes=2), bbox=F.BBoxFeature(), path=F.Text()),
        lambda r, i, s: plain(r, i, s) | dict(coarse=i % 2, bbox=F.BBox(0.0, 0.0, 1.0, 1.0), path="p"),
    ),
    "multi": with_label("Multi", F.Sequence(LABEL), lambda i: [0, i % 3]),
    "only_train": builder("OnlyTrain", dict(image=IMAGE, label=LABEL), plain, splits=("train",)),
    "train_validation": builder(
        "TrainValidation", dict(image=IMAGE, label=LABEL), plain, splits=("train", "validation")
    ),
    "odd_splits": builder("OddSplits", dict(image=IMAGE, label=LABEL), plain, splits=("training", "testing")),
    "unlabelled_test": builder(
        "UnlabelledTest",
        dict(image=IMAGE, label=LABEL),
        lambda r, i, s: dict(image=pixels(r), label=-1 if s == "test" else i % 3),
        splits=("train", "validation", "test"),
    ),
    "configured": builder("Configured", dict(image=IMAGE, label=LABEL), plain, configs=("small", "big")),
}


def as_read(made, image="image", label="label"):
    """Returns the images and labels of the train split, as TFDS itself reads them by TensorFlow."""
    examples = list(tfds.as_numpy(made.as_dataset(split="train", shuffle_files=False)))
    return np.stack([example[image] for example in examples]), [int(example[label]) for example in examples]


def main():
    tfds.disable_progress_bar()
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for kind, made in KINDS.items():
            for file_format in ("array_record", *(("tfrecord", "parquet") if kind in ("plain", "extra") else ())):
                config = {"config": "big"} if kind == "configured" else {}
                made(data_dir=root / file_format, **config).download_and_prepare(file_format=file_format)
        # Three shards, as data sets of gigabytes have.
        sharded = KINDS["other_keys"](data_dir=root / "sharded")
        options = tfds.download.DownloadConfig(num_shards=3)
        sharded.download_and_prepare(file_format="tfrecord", download_config=options)
        expected = {}
        for kind in ("plain", "rgba", "grey", "sixteen", "tensor_image", "int_label"):
            again = KINDS[kind](data_dir=root / "again")
            again.download_and_prepare(file_format="tfrecord")
            images, expected[f"{kind}/labels"] = as_read(again)
            expected[f"{kind}/images"] = images.tolist()
        images, expected["sharded/labels"] = as_read(sharded, "img", "kind")
        expected["sharded/images"] = images.tolist()
        (root / "expected.json").write_text(json.dumps(expected))
        with tarfile.open(here / "tfds.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(root.rglob("*")):
                name = path.relative_to(root)
                if path.is_file() and name.parts[0] != "again" and ".config" not in name.parts:
                    archive.add(path, str(name), filter=anonymous)


def anonymous(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()

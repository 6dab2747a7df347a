"""The images of a step, and the end of augmentation."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from older_runs import write_older_config

from training_flax import TrainConfig, open_dataset
from training_flax.data.dataset import StreamedSplit
from training_flax.data.decode import centre_crop
from training_flax.data.loader import UNCHANGED, Loader, random_fit
from training_flax.learn.evaluation import on_device
from training_flax.run.loop import train_reader
from training_flax.run.plan import plan
from training_flax.run.programs import make_loader

OPTIONS = dict(width=2, batch_size=8, augment=("affine",), mixup=1.0)


def feed_of(job):
    part = job.dataset.train
    return Loader(part, range(job.total_steps), 8, 0, job.devices, train_reader(job), change_until=job.change_until)


def shown(job, step):
    """Returns images and targets of a step, and the unchanged examples."""
    rows = feed_of(job).rows(step)
    load = jax.jit(make_loader(job))
    images, targets = load(jax.random.key(0), on_device(job.dataset.train, job.devices), rows)
    return np.asarray(images), np.asarray(targets), rows.examples


@pytest.mark.slow
@pytest.mark.parametrize(("share", "last"), [(0.5, 3), (0.4, 3), (0.01, 1), (1.0, 6)])
def test_images_and_targets_are_changed_until_a_share_of_the_steps_and_then_what_they_are(share, last):
    job, part = plan(TrainConfig("resnet20", steps=6, augment_until=share, **OPTIONS)), open_dataset("digits").train
    for step in range(6):
        images, targets, examples = shown(job, step)
        assert images.dtype == np.float32
        same = (images == part.images[examples]).all((1, 2, 3))
        plain = (targets == np.eye(10)[part.labels[examples]]).all(1)
        assert same.all() == plain.all() == (step >= last)
        assert same.any() == (step >= last)


@pytest.mark.slow
def test_what_is_changed_is_so_whatever_comes_after(all_of_llvm):
    """Images are equal bit for bit with users' compiler options; with fewer optimisations programs may differ."""
    whole, cut = (plan(TrainConfig("resnet20", steps=6, augment_until=share, **OPTIONS)) for share in (1.0, 0.5))
    for one, other in zip(shown(whole, 2), shown(cut, 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_crops_that_are_made_while_decoding_give_way_to_the_middle_as_it_is_tested():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    fit = random_fit(8, 0, 0.08, 0.875)
    np.testing.assert_array_equal(fit(image, UNCHANGED, 5), centre_crop(image, 8, 0.875))
    assert (fit(image, 0, 5) != centre_crop(image, 8, 0.875)).any()

    given = open_dataset("digits")
    streamed = StreamedSplit(given.train.labels, (8, 8, 3), lambda index: given.train.images[index])
    config = TrainConfig("resnet20", steps=4, augment_until=0.5, test_crop=0.75, **OPTIONS)
    job = plan(replace(config, augment=("random-resized-crop:0.1",), mixup=0.0))
    job = replace(job, dataset=replace(given, train=streamed))
    for step, batch in enumerate(feed_of(job)):
        middles = [centre_crop(given.train.images[i], 8, 0.75) for i in np.asarray(batch.examples)]
        assert (np.asarray(batch.images) == np.stack(middles)).all() == (step >= 2)


def test_a_run_of_before_the_option_changed_its_images_to_the_end(tmp_path):
    config = TrainConfig("resnet20", steps=6, augment_until=1.0, out=tmp_path / "run", **OPTIONS)
    job = plan(config)
    job.run.mkdir()
    write_older_config(job.run, job.config, job.dataset)
    path = job.run / "config.json"
    options = json.loads(path.read_text())
    assert options.pop("augment_until") == 1.0
    path.write_text(json.dumps(options))
    assert plan(config).run == job.run
    with pytest.raises(ValueError, match=r"which differs in augment_until \(1.0 there, 0.5 now\)$"):
        plan(replace(config, augment_until=0.5))

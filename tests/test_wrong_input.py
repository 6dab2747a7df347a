"""Wrong input, broken files, full disks: train.py ends with exit code 2 and one line, and nothing half-written."""

import errno
import fcntl
import os
import shutil
import struct
import sys
import time
import zlib
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import chex
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from common_flax import files
from training_flax import batch_indices, restore
from training_flax.run.checkpoints import Checkpoints
from training_flax.run.loop import Loop
from training_flax.run.programs import compile_programs
from training_flax.runtime.devices import Devices

sys.path.insert(0, str(Path(__file__).parent.parent))
from training_flax import train_command

NETWORK = ["--arch", "resnet20", "--width", "4", "--batch-size", "32", "--schedule", "constant", "--warmup", "0"]
CORE_SECONDS = 20  # the longest time of a refusal


def contents(folder):
    """Returns all files of a folder, with their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes an empty working directory, with the cache inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("keep_compiled_programs", "keep_memory"):
        monkeypatch.setattr(train_command, name, lambda: None)
    return tmp_path


COMPILED = {}


@pytest.fixture
def door(here, monkeypatch, capsys):
    """Makes the function arguments → exit code, stdout, stderr. Runs of the same network share compiled programs."""

    def compile_once(job):
        # With a constant learning rate the programs do not depend on the number of steps.
        config = replace(job.config, out=None, steps=None, weights=None, max_skipped=1, recipe=None)
        key = (config, job.dataset.mean, job.dataset.std)
        if key not in COMPILED:
            COMPILED[key] = compile_programs(job)
        return COMPILED[key]

    def opened(*arguments, network=NETWORK):
        start = time.process_time()
        code = train_command.main([*network, *arguments])
        assert time.process_time() - start < CORE_SECONDS or code == 0
        return code, *capsys.readouterr()

    monkeypatch.setattr(sys.modules["training_flax.fit"], "compile_programs", compile_once)
    return opened


def refused(door, *arguments, **options):
    """Returns the one line of error when a command is refused or a run fails."""
    code, _, err = door(*arguments, **options)
    assert code == 2, err
    assert err.startswith("train.py: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    return err.removeprefix("train.py: error: ").rstrip("\n")


INSTALL = "pip install 'resnet-densenet-flax"
# Wrong command lines, for resnet20 by default.
OPTIONS = {
    "unknown architecture": ("--arch densnet121", "unknown arch 'densnet121'; did you mean 'densenet121'?"),
    "unknown architecture, its options asked for": (
        "--arch densnet121 --print-config",
        "unknown arch 'densnet121'; did you mean",
    ),
    "no architecture": (None, "Missing from train.py: --arch STR Architecture: one of those listed above. (required)"),
    "unknown flag": ("--epoch 2", "Unrecognized options: --epoch, 2; did you mean '--epochs'?"),
    "not a number": (
        "--epochs two",
        "Error parsing --epochs: no type matching INT could be instantiated from ['two']",
    ),
    "half a batch": (
        "--batch-size 64.5",
        "Error parsing --batch-size: no type matching INT could be instantiated from ['64.5']",
    ),
    "unknown data": ("--data digit", "unknown data set 'digit'; did you mean 'digits'?"),
    "unknown recipe": ("--recipe quik-digits", "unknown recipe 'quik-digits'; did you mean 'quick-digits'?"),
    "unknown type": (
        "--dtype int8",
        "unknown dtype 'int8'; allowed: 'float32', 'bfloat16', 'float16', 'float64'",
    ),
    "unknown optimizer": ("--optimizer adam", "unknown optimizer 'adam'; did you mean 'adamw'?"),
    "unknown schedule": ("--schedule cosin", "unknown schedule 'cosin'; did you mean 'cosine'?"),
    "unknown loss": ("--loss hinge", "unknown loss 'hinge'; allowed: 'softmax', 'binary'"),
    "unknown parallel": ("--parallel pmapp", "unknown parallel 'pmapp'; did you mean 'pmap'?"),
    "unknown statistics": ("--batch-norm sync", "unknown batch_norm 'sync'; allowed: 'global', 'local'"),
    "no batch": ("--batch-size 0", "batch_size must be a positive integer; given 0"),
    "negative batch": ("--batch-size -3", "batch_size must be a positive integer; given -3"),
    "batch beyond the data": (
        "--batch-size 1438",
        "batch_size must be at most the 1437 images of digits; given 1438",
    ),
    "odd batch to mix": (
        "--batch-size 63 --mixup 0.2",
        "batch_size must be a multiple of 2, for 1 device and pairs to mix; given 63",
    ),
    "images changed for no step": ("--augment-until 0", "augment_until must be over 0 and at most 1; given 0.0"),
    "uneven pieces": (
        "--batch-size 64 --accumulate 3",
        "batch_size must be a multiple of 3, for 1 device and 3 pieces; given 64",
    ),
    "no rate": ("--lr 0", "lr must be positive and finite; given 0.0"),
    "negative rate": ("--lr -0.1", "lr must be positive and finite; given -0.1"),
    "rate of nan": ("--lr nan", "lr must be positive and finite; given nan"),
    "infinite rate": ("--lr inf", "lr must be positive and finite; given inf"),
    "momentum 1": ("--momentum 1", "momentum must be at least 0 and under 1; given 1.0"),
    "negative decay": ("--weight-decay -1", "weight_decay must be at least 0 and finite; given -1.0"),
    "warm-up alone": ("--warmup 1", "warmup must be at least 0 and under 1; given 1.0"),
    "falling shares": (
        "--decay-at 0.5 0.3",
        "decay_at must be rising shares over 0 and under 1; given (0.5, 0.3)",
    ),
    "unknown augmentation": ("--augment pad-crp", "unknown augmentation 'pad-crp'; did you mean 'pad-crop'?"),
    "augmentation twice": (
        "--augment flip flip",
        "each augmentation may be given once; 'flip' is given 2 times",
    ),
    "bad amount": (
        "--augment colour:9",
        "augmentation 'colour' takes a number from 0 to 1 as strength; given 'colour:9'",
    ),
    "all smooth": ("--label-smoothing 1", "label_smoothing must be at least 0 and under 1; given 1.0"),
    "average of the start": ("--ema 1", "ema must be at least 0 and under 1; given 1.0"),
    "epochs and steps": (
        "--epochs 2 --steps 3",
        "give epochs or steps, not both; given epochs=2 and steps=3",
    ),
    "no epochs": ("--epochs 0", "epochs must be a positive integer; given 0"),
    "no steps": ("--steps 0", "steps must be a positive integer; given 0"),
    "endless steps": ("--steps 3000000000", "a run must have at most 100000000 steps; given steps=3000000000"),
    "endless epochs": (
        "--epochs 1000000000",
        "a run must have at most 100000000 steps; given epochs=1000000000, which are 22453125000",
    ),
    "negative seed": ("--seed -1", "seed must be from 0 to 4294967295; given -1"),
    "no skipping": ("--max-skipped 0", "max_skipped must be a positive integer; given 0"),
    "checkpoints all the time": (
        "--checkpoint-minutes 0",
        "checkpoint_minutes must be positive and finite; given 0.0",
    ),
    "freeze nothing": ("--freeze con1/*", "unknown freeze pattern 'con1/*'; did you mean 'conv1/*'?"),
    "freeze all": ("--freeze *", "freeze leaves nothing to train; given '*'"),
    "option of another family": (
        "--growth-rate 3",
        "resnet20 has no option growth_rate; it has stem_type, shortcut, bottleneck_stride, padding, width, zero_init, "
        "drop_path, remat, frozen_batch_norm; given 3",
    ),
    "stochastic depth of a DenseNet": (
        "--arch densenet121 --drop-path 0.1",
        "densenet121 has no option drop_path; it has stem_type, growth_rate, dropout, remat, frozen_batch_norm; given "
        "0.1",
    ),
    "stochastic depth of a plain network": (
        "--arch plain20 --drop-path 0.1",
        "drop_path=0.1 would cut a plain network in two; it needs shortcuts",
    ),
    "unknown shortcut": ("--shortcut Z", "unknown shortcut 'Z'; allowed: 'A', 'B', 'C', None"),
    "no width": ("--width 0", "width must be a positive integer; given 0"),
    "shards of what is whole": (
        "--shard-state --parallel pmap",
        "shard_state needs parallel='jit': under pmap each device has the whole state; given 'pmap'",
    ),
    "half a cluster": (
        "--coordinator localhost:1",
        "coordinator, num_processes and process_id go together; num_processes is missing",
    ),
    "process beyond the last": (
        "--coordinator localhost:1 --num-processes 2 --process-id 2",
        "process_id must be from 0 to 1; given 2",
    ),
    "nothing to evaluate": (
        "--eval-only",
        "evaluation needs weights, or the folder of a run as out; neither is given",
    ),
    "no run to evaluate": (
        "--eval-only --out absent",
        "weights 'absent': there is no such file",
    ),
    "no TensorBoard": (
        "--tensorboard",
        f"tensorboard needs tensorboardX: {INSTALL}[tensorboard]'",
    ),
    "no Weights & Biases": ("--wandb project", f"wandb needs wandb: {INSTALL}[wandb]'"),
    "no image size": ("--image-size 0", "image_size must be a positive integer; given 0"),
    "test size of what stays": (
        "--test-image-size 48",
        "test_image_size is for images that are resized; those of digits all are 32×32; given 48",
    ),
    "fake of two channels": (
        "--data fake:8x8x2:5",
        "fake data are 'fake:HxWxC:CLASSES' or 'fake:HxWxC:CLASSES:TRAIN' with 1 or 3 channels, such as "
        "'fake:224x224x3:1000'; given 'fake:8x8x2:5'",
    ),
    "digits of something": ("--data digits:3", "data set 'digits' takes nothing more; given 'digits:3'"),
    "data that are not prepared": (
        "--data tfds:cifar10 --data-dir there",
        "data set cifar10 is not prepared in 'there'; prepare it: python -m training_flax.prepare cifar10 "
        "--data-dir there",
    ),
    "version that is not prepared": (
        "--data tfds:mnist:9.9.9 --data-dir prepared",
        "version 9.9.9 of mnist is not prepared in 'prepared'; there is 3.0.1; prepare it: "
        "python -m training_flax.prepare mnist --data-dir prepared",
    ),
    "folder that is absent": ("--data folder:absent", "'absent': No such file or directory"),
    "folder that is a file": ("--data folder:file", "'file': Not a directory"),
    "folder that is empty": ("--data folder:empty", "'empty' has no folder 'train'"),
    "out is a file": ("--out file", "out 'file' is not a folder; name a new one"),
    "out below a device": (
        "--out /dev/null/run",
        "out '/dev/null/run' cannot be made: '/dev/null' is no folder that may be written to",
    ),
    "out that is taken": (
        "--out taken",
        "out 'taken' is not empty, and holds no run to go on with; name a new folder",
    ),
    "fewer classes than the data": ("--num-classes 7", "num_classes must be the 10 of digits; given 7"),
    "a number that no config may have": (
        "--max-skipped 99999999999999999999",
        "max_skipped must be an integer of at most 4294967296; given 99999999999999999999",
    ),
    "a list that no config may have": (
        f"--decay-at {' '.join(f'0.{i:05}' for i in range(1, 1101))}",
        "decay_at must be a list of length of at most 1024; given a list of 1,100",
    ),
    "no classes": ("--num-classes 0", "num_classes must be a positive integer; given 0"),
    "a mean without a deviation": ("--mean 0.5 0.5 0.5", "give mean and std, or neither; given mean=(0.5, 0.5, 0.5)"),
    "a mean of too few channels": (
        "--mean 0.5 --std 0.5",
        "mean and std must have a number for each of 3 channels; given (0.5,) and (0.5,)",
    ),
    "a deviation of zero": ("--mean 0 0 0 --std 1 0 1", "std must be positive and finite; given 0.0"),
    "an address that is none": ("--weights hf://owner", "an address of the hub is hf://OWNER/NAME"),
    "a new head on nothing": ("--new-head", "new_head is for weights to start from; none are given"),
    "no weights": ("--weights absent", "weights 'absent': there is no such file"),
    "weights that are none": (
        "--weights file",
        "weights 'file' cannot be read: it begins as none of the known formats does: ",
    ),
    "no weights to evaluate": ("--eval-only --weights empty", "weights 'empty': the folder has no weights"),
}


@pytest.mark.parametrize("wrong", OPTIONS)
def test_a_wrong_option_gets_one_line_and_writes_nothing(wrong, here, door, monkeypatch):
    arguments, message = OPTIONS[wrong]
    for name in ("empty", "taken", "prepared/mnist/3.0.1"):
        (here / name).mkdir(parents=True)
    (here / "taken" / "summary.json").write_text("mine")
    (here / "file").write_text("mine")
    for library in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, library, None)
    before = contents(here)
    given = (
        [] if arguments is None else [*([] if "--arch" in arguments else ["--arch", "resnet20"]), *arguments.split()]
    )
    assert refused(door, *given, network=[]).startswith(message)
    assert contents(here) == before


def test_a_batch_must_fit_the_devices(here, door, monkeypatch):
    monkeypatch.setattr(Devices, "count", property(lambda self: 4))
    assert (
        refused(door, "--batch-size", "66", "--accumulate", "3")
        == "batch_size must be a multiple of 12, for 4 devices and 3 pieces; given 66"
    )
    assert not contents(here)


def test_a_folder_that_the_system_does_not_make(here, door):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc")
    assert refused(door, "--steps", "2", "--out", "/proc/no-such-run").startswith(
        "out '/proc/no-such-run' cannot be made"
    )


def test_a_disk_without_room_is_refused_before_anything_is_written(here, door, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 250_000, 250_000))
    message = refused(door, "--steps", "2", "--out", "run")
    # Five checkpoints of weights, momentum, mean and variance; a file of weights, mean and variance.
    needed = (5 * (2 * 17_246 + 2 * 688) + 17_246 + 2 * 688) * 4 / 1e6
    given = float(message.split("needs ")[1].split(" MB")[0])
    assert needed < given < needed + 6  # overhead of files, and pictures
    assert message == f"out 'run' needs {given} MB for 5 checkpoints and the results; {str(here)!r} has 0.2 MB free"
    assert not contents(here)


def colours(seed, height=6, width=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def images(root, sizes=((6, 8),), each=2):
    """Writes two classes of `each` train images and one test image each."""
    for label, name in enumerate(("cat", "dog")):
        for part, count in (("train", each), ("test", 1)):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                seed = 100 * label + index + 50 * (part == "test")
                colours(seed, *sizes[index % len(sizes)]).save(root / part / name / f"{index}.png")


def bomb(path):
    """Makes only the header of a PNG of 60,000 × 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def link(path, target):
    path.unlink()
    path.symlink_to(target)


DATA = {
    "no test part": (
        lambda root: shutil.rmtree(root / "test"),
        "'images' has neither a folder 'test' nor one 'val'",
    ),
    "one class": (
        lambda root: [shutil.rmtree(root / part / "dog") for part in ("train", "test")],
        "'images/train' must have a folder for each of at least 2 classes; it has 1",
    ),
    "class without images": (
        lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()],
        "'images/train/dog' has no image",
    ),
    "other classes": (
        lambda root: (root / "test" / "dog").rename(root / "test" / "eel"),
        "'images': classes must be the same in 'train' and 'test'; in one alone: 'dog', 'eel'",
    ),
    "no image inside": (
        lambda root: (root / "train" / "cat" / "0.png").write_text("a cat"),
        "'images/train/cat/0.png': not an image that Pillow reads",
    ),
    "cut short": (
        lambda root: truncate(root / "train" / "dog" / "1.png", 60),
        "'images/train/dog/1.png': image file is truncated",
    ),
    "huge": (
        lambda root: bomb(root / "train" / "dog" / "0.png"),
        "'images/train/dog/0.png': more than 89,478,485 pixels",
    ),
    "loop": (
        lambda root: link(root / "train" / "cat" / "1.png", "1.png"),
        "'images/train/cat/1.png': Too many levels of symbolic links",
    ),
    "dangling link": (
        lambda root: link(root / "train" / "cat" / "1.png", "nowhere.png"),
        "'images/train/cat/1.png': No such file or directory",
    ),
}


def truncate(path, by):
    path.write_bytes(path.read_bytes()[:-by])


@pytest.mark.parametrize("wrong", DATA)
def test_data_that_are_wrong_get_one_line(wrong, here, door):
    change, message = DATA[wrong]
    images(here / "images")
    change(here / "images")
    before = contents(here)
    assert refused(door, "--data", "folder:images", "--batch-size", "2", "--strict").startswith(message)
    assert contents(here) == before


KINDS = ["--data", "folder:images", "--batch-size", "4", "--out"]


@pytest.fixture
def kinds(here, monkeypatch):
    """Makes a folder of images of all kinds, which are streamed; mean and std are those of the first image."""
    monkeypatch.setattr("training_flax.data.source.MOMENTS_LIMIT", 1)
    images(here / "images", sizes=((6, 8), (9, 7)), each=4)
    cat, image = here / "images" / "train" / "cat", colours(1, 12, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(cat / "turned.jpg", exif=exif)
    image.save(cat / "animated.gif", save_all=True, append_images=[colours(2, 12, 10)])
    image.resize((1, 1)).save(cat / "pixel.png")
    for mode, end in (("L", "png"), ("CMYK", "tif"), ("P", "gif"), ("RGBA", "png"), ("LA", "png")):
        image.convert(mode).save(cat / f"{mode}.{end}")
    return here / "images"


def test_images_of_all_kinds_train(kinds, door):
    code, out, err = door(*KINDS, "run", "--steps", "4")
    assert (code, err) == (0, "")
    assert "16 train and 2 test images of 32×32×3, 2 classes" in out


def test_an_image_found_broken_in_the_middle_of_a_run(kinds, here, door):
    """The state before the broken image is saved; after a repair the run ends with the weights of an unbroken one."""
    command = ["--steps", "8", *KINDS]
    assert door(*command, "whole")[0] == 0
    files = [path for name in ("cat", "dog") for path in sorted((kinds / "train" / name).iterdir())]
    path = next(path for i in batch_indices(2, 4, 16, 0) if (path := files[i]).stem.isdigit())
    good = path.read_bytes()
    truncate(path, 60)
    for _ in range(2):  # in the second run it is the first image
        message = refused(door, *command, "run")
        assert message.startswith(f"'{path.relative_to(here)}': image file is truncated")
        assert message.endswith("; the state after step 2 is saved in run")
    path.write_bytes(good)
    code, out, err = door(*command, "run")
    assert (code, err) == (0, "")
    assert "going on after step 2 of 8" in out
    weights = [(here / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    lines = [(here / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "whole")]
    assert len(lines[0]) == len(lines[1])


@pytest.fixture
def run(here, door):
    """Copies a run of two steps to this folder."""
    if "run" not in RUNS:
        assert door("--steps", "2", "--out", "run")[0] == 0
        assert door("--steps", "4", "--extend", "--out", "run")[0] == 0
        RUNS["run"] = contents(here / "run")
    for name, held in RUNS["run"].items():
        path = here / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held) if isinstance(held, bytes) else path.mkdir(exist_ok=True)
    return here / "run"


RUNS = {}
FOUR = ["--steps", "4", "--out", "run"]
SIX = ["--steps", "6", "--extend", "--out", "run"]


def unfinished(run):
    """Makes the run look as if it had been killed before its end."""
    (run / "summary.json").unlink()


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 0xFF
    path.write_bytes(held)


def halve(path):
    truncate(path, path.stat().st_size // 2)


WORLDS = {
    "another run": (
        lambda run: None,
        ["--lr", "0.3", "--seed", "3", *FOUR],
        "out 'run' holds another run, which differs in lr (0.05 there, 0.3 now), seed (0 there, 3 now)",
    ),
    "longer, not asked for": (
        lambda run: None,
        ["--steps", "6", "--out", "run"],
        "out 'run' holds another run, which differs in steps (4 there, 6 now); --extend makes a run longer",
    ),
    "shorter": (
        lambda run: None,
        ["--steps", "2", "--extend", "--out", "run"],
        "extend makes a run longer; steps was 4; given 2",
    ),
    "no config": (
        lambda run: (run / "config.json").unlink(),
        FOUR,
        "out 'run' is not empty, and holds no run to go on with; name a new folder",
    ),
    "half a config": (
        lambda run: halve(run / "config.json"),
        FOUR,
        "out 'run' has a damaged config.json; name a new folder",
    ),
    "config of something else": (
        lambda run: (run / "config.json").write_text("[]"),
        FOUR,
        "out 'run' has a damaged config.json; name a new folder",
    ),
    "weights of a larger network": (
        lambda run: None,
        ["--arch", "resnet32", "--weights", "run"],
        "weights 'run/model.safetensors' are not those of resnet32: state dict does not fit the model; missing: ",
    ),
    "weights of other classes": (
        lambda run: None,
        ["--weights", "run", "--data", "fake:32x32x3:7"],
        "weights 'run/model.safetensors' have 10 classes, the model has 7; --num-classes 7 draws the classifier anew",
    ),
    "half the weights": (
        lambda run: halve(run / "model.safetensors"),
        ["--weights", "run/model.safetensors"],
        "weights 'run/model.safetensors' cannot be read: Error while deserializing header: ",
    ),
    "half the weights, to evaluate": (
        lambda run: halve(run / "model.safetensors"),
        ["--eval-only", "--out", "run"],
        "weights 'run/model.safetensors' cannot be read: Error while deserializing header: ",
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_folder_that_is_not_this_run_stays_as_it_is(world, here, run, door):
    change, arguments, message = WORLDS[world]
    change(run)
    before = contents(here)
    assert refused(door, *arguments).startswith(message)
    assert contents(here) == before


def test_a_finished_run_says_so_and_changes_nothing(here, run, door):
    before = contents(here)
    assert door(*FOUR) == (0, "run is finished: 4 steps; its results are in summary.json\n", "")
    assert contents(here) == before


def test_a_second_process_is_refused(here, run, door):
    unfinished(run)
    before = contents(here)
    with (run / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refused(door, *FOUR) == "out 'run' is in use by another process that trains"
    assert contents(here) == before


def test_a_run_is_made_longer(run, door):
    code, out, err = door(*SIX)
    assert (code, err) == (0, "")
    assert "going on after step 4 of 6" in out


@pytest.mark.parametrize("harm", [halve, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(harm, run, door):
    whole = (run / "model.safetensors").read_bytes()
    unfinished(run)
    file = largest(run / "checkpoints" / "4")
    harm(file)
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    name = file.relative_to(run / "checkpoints" / "4")
    what = "is missing" if harm is Path.unlink else "is not what was written"
    assert f"checkpoint 4 is damaged and passed over: its file {name} {what}\ngoing on after step 2 of 4\n" in out
    assert (run / "model.safetensors").read_bytes() == whole


def test_only_damaged_checkpoints_are_not_gone_on_from(run, door):
    unfinished(run)
    for step in "24":
        flip(largest(run / "checkpoints" / step))
    weights = (run / "model.safetensors").read_bytes()
    message = refused(door, *FOUR)
    assert message.startswith("no checkpoint in run is whole; checkpoint 4 is damaged and passed over: its file state/")
    assert (run / "model.safetensors").read_bytes() == weights
    assert not (run / "summary.json").exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "confusion.png", "summary.json"])
def test_a_file_that_cannot_be_written_is_named(name, run, door, monkeypatch):
    """A disk that fails while a file is synced leaves the file as it was, and a run that goes on."""
    unfinished(run)
    before = contents(run)

    def failing(path):
        if Path(path).name.startswith(f"{name}."):
            raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", failing)
        message = refused(door, *FOUR)
    assert message.startswith("run 'run' cannot be written or read: [Errno 5] Input/output error: '/")
    assert f"/{name}." in message
    assert contents(run).keys() <= before.keys() | {"summary.json"}
    assert door(*FOUR)[0] == 0


UNREADABLE = {
    "a folder": (
        lambda path: (path.unlink(), path.mkdir()),
        "run 'run' cannot be written or read: [Errno 21] Is a directory: 'run/metrics.jsonl'",
    ),
    "a broken line": (
        lambda path: path.write_bytes(b"\xff{\n"),
        "line 1 of 'run/metrics.jsonl' is damaged; without it and all lines after it the run can go on",
    ),
    "another number": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"loss": ', b'"loss": 1', 1)),
        "line 1 of 'run/metrics.jsonl' is damaged; without it and all lines after it the run can go on",
    ),
}


@pytest.mark.parametrize("harm", UNREADABLE)
def test_metrics_that_cannot_be_read_are_named(harm, run, door):
    change, message = UNREADABLE[harm]
    unfinished(run)
    change(run / "metrics.jsonl")
    assert refused(door, *FOUR).startswith(message)
    restore(run)


def empty(path):
    path.write_bytes(b"")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


RESULTS = {
    "model.safetensors": (halve, flip, Path.unlink, empty, pipe),
    "summary.json": (halve, flip, Path.unlink, empty, pipe),
    **dict.fromkeys(("batch.png", "curves.png", "confusion.png"), (halve, Path.unlink, empty, pipe)),
}


@pytest.mark.parametrize(("name", "harm"), [(name, harm) for name, harms in RESULTS.items() for harm in harms])
def test_broken_results_of_a_finished_run_are_written_anew(name, harm, run, door):
    whole = (run / "model.safetensors").read_bytes()
    harm(run / name)
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    if name != "summary.json":  # without a summary the run is not finished
        assert f"run is finished, but these are missing or damaged, and written anew: {name}\n" in out
    assert "going on after step 4 of 4" in out
    assert (run / "model.safetensors").read_bytes() == whole
    assert "run is finished: 4 steps" in door(*FOUR)[1]


def test_without_a_checkpoint_broken_results_are_named_and_nothing_is_trained_again(run, door):
    flip(run / "model.safetensors")
    shutil.rmtree(run / "checkpoints")
    expected = "run is finished, but has no checkpoint to write model.safetensors from, missing or damaged"
    assert refused(door, *FOUR) == expected


def test_a_finished_run_without_checkpoints_is_not_trained_anew_to_be_longer(run, door):
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    assert refused(door, *SIX) == "run is finished, after 4 steps, but has no checkpoint to go on from"
    assert contents(run) == before


def test_a_checkpoint_of_another_run_is_refused(here, run, door):
    assert door("--seed", "1", "--steps", "4", "--out", "other")[0] == 0
    unfinished(run)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.copytree(here / "other" / "checkpoints" / "4", run / "checkpoints" / "4")
    before = contents(run / "checkpoints")
    assert refused(door, *FOUR) == "checkpoint 4 in run belongs to another run; move it away"
    assert contents(run / "checkpoints") == before


def test_lines_of_metrics_that_are_lost_are_told(run, door):
    unfinished(run)
    path = run / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    code, out, err = door(*FOUR)
    assert (code, err) == (0, "")
    assert f"metrics.jsonl has lost {len(lines) - 1} of the {len(lines)} lines before" in out


def no_room_for_orbax(monkeypatch):
    def save(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", save)


def no_room_for_a_file(monkeypatch):
    """Simulates a full disk or quota from the first checkpoint on."""
    resource = pytest.importorskip("resource")
    save = Checkpoints.save
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            save(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    monkeypatch.setattr(Checkpoints, "save", limited)


@pytest.mark.parametrize(
    ("full", "reason"),
    [
        (no_room_for_orbax, "OSError: [Errno 28] No space left on device"),
        (no_room_for_a_file, "OSError: [Errno 27] File too large"),
    ],
)
def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(full, reason, run, door, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch)
        message = refused(door, *SIX)
    assert message == f"a checkpoint could not be written to run: {reason}; those before it are whole: 2, 4"
    saved = restore(run)[1]
    np.testing.assert_array_equal(saved["params"]["fc"]["kernel"].T, load_file(run / "model.safetensors")["fc.weight"])
    code, out, err = door(*SIX)
    assert (code, err) == (0, "")
    assert "going on after step 4 of 6" in out


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("read", "metrics could not be written to run: [Errno 2] No such file or directory: 'run/metrics.jsonl'"),
        ("save", "a checkpoint could not be written to run: FileNotFoundError: "),
    ],
)
def test_a_folder_that_is_removed_while_training_is_told(moment, message, here, run, door, monkeypatch):
    before = getattr(Loop, moment)

    def removing(self, *args, **kwargs):
        shutil.rmtree(run, ignore_errors=True)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(Loop, moment, removing)
    assert refused(door, *SIX).startswith(message)
    assert not contents(here)


def test_numbers_that_are_not_finite_stop_the_run_and_leave_finite_weights(here, door):
    """Trains at so high a learning rate that no gradient after the first step is finite."""
    rate = ["--lr", "1e38", "--max-skipped", "3"]
    assert door(*rate, "--steps", "1", "--out", "one")[0] == 0
    message = refused(door, *rate, "--steps", "12", "--out", "run")
    start, where, end = message.split("; ")
    assert start == "3 steps in a row were skipped, for numbers that are not finite"
    # All features are nan. (A mean that is fused with the last ReLU would give 0.)
    back = "the first gradient on the way back from the loss was that of"
    assert where == f"the logits were not finite already, and {back} fc/bias"
    step = int(end.removeprefix("the weights before them are in checkpoint ").removesuffix(" of run"))
    assert [path.name for path in (here / "run" / "checkpoints").iterdir()] == [str(step)]
    found, expected = (restore(here / name)[1] for name in ("run", "one"))
    for kind in ("params", "batch_stats"):
        chex.assert_trees_all_equal(found[kind], expected[kind])
    assert all(np.isfinite(weight).all() for weight in load_file(here / "one" / "model.safetensors").values())


def test_of_finite_logits_the_first_gradient_that_is_not_is_named(here, door):
    """The gradient of a kernel before BatchNorm grows as the kernel shrinks, while the logits stay the same."""
    assert door("--steps", "1", "--out", "one")[0] == 0
    weights = load_file(here / "one" / "model.safetensors")
    weights["fc.weight"] *= np.float32(1e37) / np.abs(weights["fc.weight"]).max()
    weights["layer3.2.conv2.weight"] *= np.float32(1e-2)
    save_file(weights, here / "large.safetensors")
    message = refused(door, "--weights", "large.safetensors", "--max-skipped", "3", "--steps", "6", "--out", "run")
    where = "; the first gradient on the way back from the loss was that of layer3_2/conv2/kernel; "
    assert where in message


def test_a_run_whose_last_steps_were_skipped_is_not_finished_by_starting_it_again(here, door):
    command = ["--lr", "1e38", "--max-skipped", "3", "--steps", "4", "--out", "run"]
    refused(door, *command)
    assert refused(door, *command) == (
        "the last 3 steps were skipped, for numbers that are not finite; "
        "the weights before them are in checkpoint 4 of run"
    )
    assert not (here / "run" / "summary.json").exists()

"""Wrong options: train.py ends with exit code 2 and one line, and writes nothing."""

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from training_flax.runtime.devices import Devices

sys.path.insert(0, str(Path(__file__).parent.parent))
from command_line import contents, refused

INSTALL = "pip install 'resnet-densenet-flax"
# Wrong command lines, for resnet20 by default.
OPTIONS = {
    "unknown architecture": ("--arch densnet121", "unknown arch 'densnet121'; did you mean 'densenet121'?"),
    "unknown architecture, its options asked for": (
        "--arch densnet121 --print-config",
        "unknown arch 'densnet121'; did you mean",
    ),
    "an architecture with the letter O": ("--arch resnet5O", "unknown arch 'resnet5O'; did you mean 'resnet50'?"),
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
    "unknown optimizer": ("--optimizer adamm", "unknown optimizer 'adamm'; did you mean 'adam'?"),
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
        "out 'absent' holds no run to evaluate; weights takes files of weights",
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
    "folder that is empty": (
        "--data folder:empty",
        "'empty' must have a folder for each of at least 2 classes; it has 0. Images are expected as one of:",
    ),
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
    given = [*([] if "--arch" in arguments else ["--arch", "resnet20"]), *arguments.split()]
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

"""Numbers for each channel on command lines: commas, blanks or both, at every command that takes them."""

import pytest

from common_flax.command_line import parse_options, separated
from common_flax.terminal import as_numbers
from training_flax.inference.command import CommandLine
from training_flax.train_command import parse
from weights_flax.__main__ import Export

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPELLED = {
    "commas": "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    "blanks": "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
    "an equals sign": "--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225",
    "an equals sign and blanks": "--mean=0.485 0.456 0.406 --std=0.229 0.224 0.225",
    "commas and blanks": "--mean 0.485, 0.456, 0.406 --std 0.229 , 0.224 , 0.225",
    "blanks before commas": "--mean 0.485 ,0.456 ,0.406 --std 0.229 ,0.224,0.225",
    "one of each": "--mean 0.485,0.456,0.406 --std 0.229 0.224 0.225",
    "exponents": "--mean 48.5e-2,4.56E-1,.406 --std 0.229,+0.224,2.25e-1",
    "a comma at the end": "--mean 0.485,0.456,0.406, --std 0.229,0.224,0.225,",
    "twice": "--mean 1,2,3 --std 0.229,0.224,0.225 --mean 0.485,0.456,0.406",
}
COMMANDS = {
    "train": lambda words: parse(["--arch", "resnet20", *words]),
    "predict": lambda words: parse_options(CommandLine, ["--run", "R", *words], prog="predict", description=""),
    "export": lambda words: parse_options(
        Export, ["--out", "x", "--format", "onnx", *words], prog="export", description=""
    ),
}


@pytest.mark.parametrize("spelling", SPELLED)
@pytest.mark.parametrize("command", COMMANDS)
def test_commas_and_blanks_are_one_at_every_command(command, spelling):
    options = COMMANDS[command](SPELLED[spelling].split())
    assert (options.mean, options.std) == (MEAN, STD)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("--mean 0.5", (0.5,)),
        ("--mean -0.5,-1,-.25", (-0.5, -1.0, -0.25)),
        ("--mean -0.5 -1e-3 -.25", (-0.5, -0.001, -0.25)),
        ("--mean 0 1 2 3", (0.0, 1.0, 2.0, 3.0)),
    ],
)
def test_any_number_of_numbers_is_read(command, words, numbers):
    assert COMMANDS[command](words.split()).mean == numbers


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--mean", "none"),
        ("--std --mean 1", "none"),
        ("--mean a,b", "'a,b'"),
        ("--mean 0.5;0.4;0.3", "'0.5;0.4;0.3'"),
        ("--mean [0.5,0.4,0.3]", "'[0.5,0.4,0.3]'"),
        ("--std=x", "'x'"),
        ("--mean ,", "none"),
    ],
)
def test_what_is_no_number_is_named(command, words, given):
    name = words.split()[0][2:].partition("=")[0]
    with pytest.raises(ValueError) as error:
        COMMANDS[command](words.split())
    assert str(error.value) == f"{name} must be numbers, with commas or blanks between them; given {given}"


@pytest.mark.parametrize(
    ("words", "images", "mean"),
    [
        ("a.png --mean 0.5 0.4 0.3 --std 1 1 1 b.png", ("a.png", "b.png"), (0.5, 0.4, 0.3)),
        ("--mean 0.5,0.4,0.3 2024 --std 1,1,1", ("2024",), (0.5, 0.4, 0.3)),  # a folder with a number for its name
        ("--std 1 1 1 --mean 0.5 0.4 0.3 -- 2024 --mean", ("2024", "--mean"), (0.5, 0.4, 0.3)),
        ("--std 1,1,1 --mean 0.5 -", ("-",), (0.5,)),
    ],
)
def test_images_behind_numbers_are_images(words, images, mean):
    options = COMMANDS["predict"](words.split())
    assert (options.images, options.mean) == (images, mean)


def test_other_words_stay_as_they_are():
    words = ["--lr", "0.1,0.2", "--mean-of", "1", "x--mean", "--decay-at", "0.5", "0.75", "mean", "1"]
    assert separated(words) == words


def test_numbers_are_shown_in_four_digits():
    assert as_numbers((0.4852345, 1.0, 1e-7)) == "0.4852 1 1e-07"

"""Names from files in pictures: each is drawn as it is, and none ends the drawing."""

import numpy as np
import pytest
from PIL import Image

from common_flax.terminal import as_label
from resnet_flax import resnet20
from training_flax.plots.curves import draw_confusion, draw_curves
from training_flax.plots.grids import draw_batch, draw_mistakes, draw_predictions
from training_flax.run.comparison import Run, draw_comparison
from weights_flax.look.pictures import draw_activation_maps, draw_filters

NAMES = {
    "a wrong formula": r"$\frac{1}{0$",
    "an empty formula": "$$",
    "dollars": "a$b$c",
    "an escaped dollar": r"\$x\$",
    "a command": r"\usepackage{x} $\input{/etc/passwd}$",
    "10,000 characters": "x" * 10_000,
    "10,000 escapes": "\x1b" * 10_000,
    "lines": "a\nb\r\nc",
    "a colour of terminals": "\x1b[31mred\x07",
    "a zero byte": "a\0b",
    "an animal": "🐈",
    "Japanese": "猫",
    "right to left": "\u202egpj",
    "half of a pair": "a\ud83d",
    "a line that is left out": "_hidden",
    "nothing": "",
    "a form": "%s {0} {",
}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
KERNEL = {"params": {"conv1": {"kernel": RNG.normal(size=(3, 3, 3, 4))}}}
LINES = [{"split": split, "epoch": 1, "step": 1, "loss": 1.0, "accuracy": 0.5} for split in ("train", "test")]
DRAWN = {
    "curves": lambda path, name: draw_curves(path, LINES, name),
    "confusion": lambda path, name: draw_confusion(
        path, np.array([0, 1]), np.array([1, 1]), [name, f"{name}2"], f"{name} on {name}"
    ),
    "batch": lambda path, name: draw_batch(path, IMAGES, np.array([[1.0, 0.0], [0.4, 0.6]]), [name, f"{name}2"]),
    "predictions": lambda path, name: draw_predictions(
        path,
        IMAGES,
        [name, f"{name}2"],
        np.array([[0.9, 0.1]] * 2),
        np.array([[0, 1]] * 2),
        [name, f"{name}2"],
        format="png",
    ),
    "mistakes": lambda path, name: draw_mistakes(path, IMAGES, [name] * 2, [name, None], [0.9, np.nan], name, name),
    "comparison": lambda path, name: draw_comparison(path, [Run(name, {}, LINES, {}), Run(f"{name}2", {}, LINES, {})]),
    "filters": lambda path, name: draw_filters(path, resnet20(width=4), KERNEL, name),
    "maps": lambda path, name: draw_activation_maps(path, IMAGES, np.ones((2, 2, 2)), [name, f"{name}2"]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("picture", DRAWN)
def test_any_name_is_drawn(picture, name, tmp_path):
    DRAWN[picture](tmp_path / "x.png", NAMES[name])
    with Image.open(tmp_path / "x.png") as image:
        assert image.width * image.height < 4_000_000


@pytest.mark.parametrize("losses", [(0.0, 0.0), (0.0, 1.0), (None, None), (1e38, 1e-38)])
def test_any_losses_are_drawn(losses, tmp_path):
    """A network of one class has the loss 0, which a logarithmic axis does not have."""
    lines = [{**line, "loss": loss} for line, loss in zip(LINES, losses, strict=True)]
    draw_curves(tmp_path / "x.png", lines, "one class")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_label_is_short_and_without_formulas():
    assert as_label("x" * 100) == "x" * 79 + "…"
    assert as_label("x" * 100, 10) == "x" * 9 + "…"
    assert as_label("$a$\n") == r"\$a\$\n"
    assert len(as_label("\x1b" * 100)) == 80

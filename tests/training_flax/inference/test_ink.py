"""Photos of digits made to look like the digits data set."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training_flax import TrainConfig, fit, open_dataset
from training_flax.inference.command import main
from training_flax.inference.ink import as_digit, is_made_of_cells
from training_flax.inference.trained import network_of_run, network_of_weights

LLVM = 3
NINE_BLOCKS = True
DIGITS = open_dataset("digits")
FONTS = Path(str(files("matplotlib"))) / "mpl-data/fonts/ttf"  # each installation of matplotlib has DejaVu's


def typed(digit, *, font="DejaVuSans", size=160, side=240, ink=0, ground=255, place=(0, 0)):
    image = Image.new("RGB", (side, side), (ground,) * 3)
    middle = (side // 2 + place[0], side // 2 + place[1])
    chosen = ImageFont.truetype(str(FONTS / f"{font}.ttf"), size)
    ImageDraw.Draw(image).text(middle, str(digit), fill=(ink,) * 3, font=chosen, anchor="mm")
    return image


def photographed(image, *, seed=0):
    """Light that falls off to one side by two thirds, grey ink, a blur and noise."""
    pixels = np.asarray(image, np.float64)
    rows, columns = np.indices(pixels.shape[:2]) / max(pixels.shape[:2])
    light = 1 - 0.45 * rows - 0.2 * columns
    noise = np.random.default_rng(seed).normal(0, 3, pixels.shape)
    lit = (60 + pixels * 0.7) * light[..., None] + noise
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))


def cells(image):
    return as_digit(np.asarray(image))[::4, ::4, 0].astype(float) / 255


@pytest.mark.parametrize("digit", range(10))
@pytest.mark.parametrize("font", ["DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold"])
def test_digits_have_the_form_of_the_data_set(font, digit):
    made = as_digit(np.asarray(typed(digit, font=font)))
    assert made.shape == (32, 32, 3) and made.dtype == np.uint8 and is_made_of_cells(made)
    assert set(np.unique(made)) <= set(np.unique(DIGITS.train.images))  # 17 levels
    seen = made[::4, ::4, 0] / 255
    assert seen[0].max() > 0 and seen[-1].max() > 0  # the box fills the height, as in each image of the data set
    assert seen[:, [0, -1]].max() == 0 or seen[:, [0, -1]].mean() < 0.1
    shares = DIGITS.train.images.mean((1, 2, 3)) / 255
    assert shares.min() <= seen.mean() <= shares.max()


@pytest.mark.parametrize("digit", range(10))
def test_light_ink_size_and_place_change_nothing(digit):
    plain = cells(typed(digit))
    np.testing.assert_array_equal(cells(typed(digit, ink=255, ground=0)), plain)
    np.testing.assert_array_equal(cells(typed(digit, place=(31, -17))), plain)
    # Edges of strokes fall on other pixels: two of the sixteen pixels of a cell on average.
    assert abs(cells(typed(digit, size=290, side=500)) - plain).mean() < 2 / 16


@pytest.mark.parametrize("digit", range(10))
def test_a_photo_gives_nearly_what_the_clean_page_gives(digit):
    assert abs(cells(photographed(typed(digit))) - cells(typed(digit))).mean() < 2 / 16


def test_specks_and_a_shadow_are_no_ink():
    page = typed(5)
    dirty = page.copy()
    drawing = ImageDraw.Draw(dirty)
    for place in ((10, 10), (220, 30), (200, 210)):
        drawing.ellipse((*place, place[0] + 5, place[1] + 5), fill=(0, 0, 0))
    np.testing.assert_array_equal(cells(dirty), cells(page))


def test_an_image_of_the_data_set_stays_as_it_is():
    for image in DIGITS.test.images[:50]:
        assert as_digit(image) is image
    assert not is_made_of_cells(np.asarray(typed(3).resize((32, 32))))


@pytest.mark.slow
def test_an_image_of_the_data_set_is_found_again_on_paper():
    """A digit of the data set, drawn large and dark on light paper, comes back nearer to itself than to others."""
    originals = DIGITS.train.images[:40, ::4, ::4, 0] / 255
    found = []
    for original in originals:
        drawn = Image.fromarray(np.uint8(255 - 255 * original)).resize((160, 160), Image.Resampling.BICUBIC)
        page = Image.new("L", (300, 260), 255)
        page.paste(drawn, (90, 40))
        found.append(cells(page.convert("RGB")))
    distances = ((np.stack(found)[:, None] - originals[None]) ** 2).mean((2, 3))
    nearest = DIGITS.train.labels[:40][distances.argmin(1)]
    assert (nearest == DIGITS.train.labels[:40]).mean() >= 0.95


NO_INK = {
    "white": np.full((50, 60, 3), 255, np.uint8),
    "black": np.zeros((50, 60, 3), np.uint8),
    "one pixel": np.full((1, 1, 3), 128, np.uint8),
    "a slope": np.tile(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], (60, 1, 3)),
    "faint": np.asarray(typed(3, ink=250)),
    "noise of a camera": np.random.default_rng(0).normal(200, 3, (90, 80, 3)).astype(np.uint8),
}


@pytest.mark.parametrize("image", NO_INK.values(), ids=NO_INK)
def test_no_ink_is_one_line(image):
    with pytest.raises(ValueError, match="no ink is found on an even ground; a photo of one digit on paper is wanted"):
        as_digit(image)


@pytest.mark.parametrize("shape", [(4, 4), (2, 300), (300, 2), (5, 7), (31, 33)])
def test_any_shape_gives_an_image_or_one_line(shape):
    image = np.full((*shape, 3), 255, np.uint8)
    image[shape[0] // 3 : shape[0] // 3 + max(shape[0] // 3, 1), shape[1] // 2] = 0
    try:
        assert as_digit(image).shape == (32, 32, 3)
    except ValueError as error:
        assert "no ink" in str(error)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    fit(TrainConfig("resnet20", width=8, epochs=6, out=folder), quiet=True)
    return folder


def test_card_and_run_carry_the_preparation(run):
    of_run, of_file = (
        network_of_run(run, "float32"),
        network_of_weights(str(run / "model.safetensors"), None, "float32"),
    )
    assert of_run.preparation == of_file.preparation == "digit"
    assert of_run.likeness == of_file.likeness and of_run.likeness is not None
    low, high = of_run.likeness.brightness
    assert 0.2 < low < high < 0.45


def predicted(capsys, *arguments):
    code = main([*map(str, arguments), "--json", "--top", "1"])
    out, err = capsys.readouterr()
    return code, [json.loads(line)["classes"][0]["class"] for line in out.splitlines()], err


@pytest.mark.slow
def test_the_command_prepares_says_so_and_can_be_told_not_to(run, tmp_path, capsys):
    paths = [tmp_path / f"{digit}.png" for digit in range(10)]
    for digit, path in enumerate(paths):
        typed(digit).save(path)
    code, classes, err = predicted(capsys, "--run", run, *paths)
    assert code == 0 and "predict: finds the ink of one digit in each image, and centres and scales it as" in err
    assert sum(name == str(digit) for digit, name in enumerate(classes)) >= 6  # a twentieth of the network of README
    assert "unlike" not in err
    code, plain, err = predicted(capsys, "--run", run, "--preparation", "none", *paths)
    assert code == 0 and plain != classes and "finds the ink" not in err
    assert f"predict: '{paths[0]}' is unlike the training images: brightness 0.9" in err
    assert "predict: 7 more images are unlike the training images" in err


@pytest.mark.slow
def test_an_image_without_ink_is_named_and_skipped(run, tmp_path, capsys):
    typed(3).save(tmp_path / "a.png")
    Image.new("RGB", (60, 60), (255, 255, 255)).save(tmp_path / "b.png")
    code, classes, err = predicted(capsys, "--run", run, tmp_path / "a.png", tmp_path / "b.png")
    assert code == 1 and len(classes) == 1
    assert f"predict: '{tmp_path / 'b.png'}': no ink is found on an even ground" in err and "skipped" in err


def test_a_wrong_preparation_is_named(run, tmp_path, capsys):
    typed(3).save(tmp_path / "a.png")
    assert main(["--run", str(run), str(tmp_path / "a.png"), "--preparation", "digits"]) == 2
    assert "unknown preparation 'digits'; did you mean 'digit'?" in capsys.readouterr().err

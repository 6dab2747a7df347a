"""Pictures of filters and maps: every filter in its place, maps the right way up, no files left after errors."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from weights_flax import build_model, draw_activation_maps, draw_filters
from weights_flax.look.pictures import filter_grid


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def test_every_filter_is_in_its_place_and_zero_is_grey():
    kernel = draw(7, 5, 3, 10)
    kernel[:, :, :, 9] = 0
    grid = filter_grid(kernel)
    assert grid.shape == (3 * 8 - 1, 4 * 6 - 1, 3)  # four columns, three rows, a line between them
    for place in range(10):
        row, column = divmod(place, 4)
        tile = grid[8 * row : 8 * row + 7, 6 * column : 6 * column + 5]
        largest = np.abs(kernel[..., place]).max()
        np.testing.assert_allclose((2 * tile - 1) * largest, kernel[..., place], atol=1e-15 * max(largest, 1) * 8)
    np.testing.assert_array_equal(grid[16:, 6:11], 0.5)
    np.testing.assert_array_equal(grid[7::8], 1)
    np.testing.assert_array_equal(grid[:, 5::6], 1)
    np.testing.assert_array_equal(grid[16:, 12:], 1)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_that_are_no_colours_are_side_by_side(channels):
    kernel = draw(3, 3, channels, 4)
    grid = filter_grid(kernel)
    assert grid.shape == (2 * 4 - 1, 2 * channels * 4 - 1, 3)
    assert np.array_equal(grid[..., 0], grid[..., 1]) and np.array_equal(grid[..., 0], grid[..., 2])
    for place, channel in np.ndindex(4, channels):
        top, left = 4 * (place // 2), 4 * (place % 2 * channels + channel)
        expected = 0.5 + 0.5 * kernel[:, :, channel, place] / np.abs(kernel[..., place]).max()
        np.testing.assert_allclose(grid[top : top + 3, left : left + 3, 0], expected, atol=1e-15)


@pytest.mark.parametrize(
    ("arch", "name", "options"),
    [("resnet20", "conv1", {"width": 4}), ("densenet_bc_40_12", "conv0", {}), ("vgg11", "features_0", {"width": 4})],
)
def test_the_picture_shows_the_first_convolution(tmp_path, arch, name, options):
    """Draws filters of one colour each: red, green, blue, and one with negative blue."""
    model = build_model(arch, **options)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    kernel = np.zeros(variables["params"][name]["kernel"].shape)
    for place, (channel, sign) in enumerate(((0, 1), (1, 1), (2, 1), (2, -1))):
        kernel[:, :, channel, place] = sign
    draw_filters(tmp_path / "filters.png", model, {"params": {name: {"kernel": kernel}}})
    assert [path.name for path in tmp_path.iterdir()] == ["filters.png"]
    pixels = np.asarray(Image.open(tmp_path / "filters.png").convert("RGB")).astype(int)
    centres = []
    for colour in ((255, 127, 127), (127, 255, 127), (127, 127, 255), (127, 127, 0)):
        rows, columns = np.nonzero(np.abs(pixels - colour).max(-1) <= 1)
        assert len(rows) > 200, colour
        centres.append((rows.mean(), columns.mean()))
    columns = int(np.ceil(np.sqrt(kernel.shape[-1])))
    for place in range(1, 4):  # to the right of, or below, the one before
        below, beside = np.subtract(centres[place], centres[place - 1])
        assert (below > 20 and beside < -20) if place % columns == 0 else (abs(below) < 2 and beside > 20)


def test_a_map_lies_over_its_image_the_right_way_up(tmp_path):
    """Bright places of maps of 2×3 are bright in the picture, over black images of 40×60 pixels."""
    places = [(0, 0), (0, 2), (1, 0), (1, 1)]
    maps = np.zeros((4, 2, 3))
    for index, place in enumerate(places):
        maps[index][place] = 10.0**index
    maps[3] -= 500  # all but one place are evidence against the class
    draw_activation_maps(tmp_path / "maps.png", np.zeros((4, 40, 60, 3)), maps, ["a", "b", "c", "d"])
    assert [path.name for path in tmp_path.iterdir()] == ["maps.png"]
    pixels = np.asarray(Image.open(tmp_path / "maps.png").convert("L")).astype(float)
    dark = pixels < 250
    panels = [columns for columns in _runs(dark[-100:].any(0)) if len(columns) > 50]
    assert len(panels) == 4
    rows = [rows for rows in _runs(dark[:, panels[0][5]]) if len(rows) > 50]
    assert len(rows) == 2
    for columns, (row, column) in zip(panels, places, strict=True):
        above, below = (pixels[np.ix_(part[3:-3], columns[3:-3])] for part in rows)
        assert above.max() == 0
        height, width = below.shape
        assert width / height == pytest.approx(1.5, abs=0.05)
        weights = below - below.min()
        centre = weights.sum(1) @ np.arange(height) / height, weights.sum(0) @ np.arange(width) / width
        expected = (row + 0.5) / 2, (column + 0.5) / 3
        assert np.abs(np.divide(centre, weights.sum()) - expected).max() < 0.1


def _runs(values):
    """Returns the places of each run of true values."""
    places = np.nonzero(values)[0]
    return np.split(places, np.nonzero(np.diff(places) > 1)[0] + 1)


def test_a_map_that_finds_nothing_is_dark(tmp_path):
    images = np.full((1, 8, 8, 1), 200.0)
    for name, values in (("zero", 0.0), ("against", -1.0)):
        draw_activation_maps(tmp_path / name, images, np.full((1, 2, 2), values), [""])
    zero, against = (np.asarray(Image.open(tmp_path / name)) for name in ("zero", "against"))
    np.testing.assert_array_equal(zero, against)
    assert np.min(zero[len(zero) // 2 :, :, :3]) < 100  # 0.4 of 200, and black


def test_what_cannot_be_drawn_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    images, maps = np.zeros((2, 8, 8, 3)), np.zeros((2, 2, 2))
    path = tmp_path / "maps.png"
    with pytest.raises(ValueError, match=r"must be as many; given \(2, 8, 8, 3\), \(2, 2, 2\) and 1 titles"):
        draw_activation_maps(path, images, maps, ["one"])
    with pytest.raises(ValueError, match=r"given \(2, 8, 8, 3\), \(2, 2\) and 2 titles"):
        draw_activation_maps(path, images, maps[0], ["one", "two"])
    with pytest.raises(ValueError, match=r"picture '.*maps.png' cannot be written: No such file or directory"):
        draw_activation_maps(tmp_path / "none" / "maps.png", images, maps, ["one", "two"])
    with pytest.raises(ValueError, match="a model must be a ResNet, PlainNet, VGG or DenseNet; given str"):
        draw_filters(path, "resnet20", {})
    assert not list(tmp_path.iterdir())

    path.write_bytes(b"the one before")
    with pytest.raises(ValueError, match="cannot be written: Not a directory"):
        draw_activation_maps(path / "maps.png", images, maps, ["one", "two"])

    def full(self, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(ValueError, match=r"maps.png' cannot be written: No space left on device"):
        draw_activation_maps(path, images, maps, ["one", "two"])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("maps.png", b"the one before")]


@pytest.mark.slow
def test_matplotlib_is_loaded_by_what_draws_alone():
    code = "import sys, weights_flax; print('matplotlib' in sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip() == "False"

import io
import math

import numpy as np
import pytest
from PIL import Image

from training_flax.data.decode import CROP_RULES, centre_crop, random_box, random_resized_crop, read_image, read_size

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 6, 3), np.uint8)
GREY = RNG.integers(0, 256, (4, 6), np.uint8)
ALPHA = RNG.integers(0, 256, (4, 6), np.uint8)
DEEP = RNG.integers(0, 2**16, (4, 6), np.uint16)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    image = read_image(io.BytesIO(data), "x")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert read_size(io.BytesIO(data), "x") == image.shape[:2]
    return image


def test_colours_come_as_they_are():
    image = Image.fromarray(COLOURS)
    for kind, options in [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})]:
        np.testing.assert_array_equal(decoded(encoded(image, kind, **options)), COLOURS)
    smooth = Image.fromarray(np.full((16, 16, 3), (200, 100, 50), np.uint8))
    for kind in ("JPEG", "WEBP"):  # lossy formats keep a constant colour within rounding
        np.testing.assert_allclose(decoded(encoded(smooth, kind, quality=95)), np.asarray(smooth), atol=4)


def test_grey_comes_in_three_equal_channels():
    for image in (Image.fromarray(GREY), Image.fromarray(GREY > 127)):
        expected = np.asarray(image.convert("L"))[..., None].repeat(3, -1)
        np.testing.assert_array_equal(decoded(encoded(image, "PNG")), expected)


def test_of_sixteen_bits_the_upper_eight_stay():
    for kind in ("PNG", "TIFF", "PPM"):
        expected = (DEEP >> 8).astype(np.uint8)[..., None].repeat(3, -1)
        np.testing.assert_array_equal(decoded(encoded(Image.fromarray(DEEP), kind)), expected)


def test_a_palette_gives_its_colours():
    image = Image.fromarray(COLOURS).quantize(8)
    np.testing.assert_array_equal(decoded(encoded(image, "PNG")), np.asarray(image.convert("RGB")))


def test_what_is_transparent_is_blended_over_black():
    blended = np.rint(COLOURS * (ALPHA[..., None] / 255))
    image = decoded(encoded(Image.fromarray(np.dstack([COLOURS, ALPHA])), "PNG"))
    np.testing.assert_allclose(image, blended, atol=0.5)
    grey = decoded(encoded(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"))
    np.testing.assert_allclose(grey, np.rint(GREY * (ALPHA / 255))[..., None].repeat(3, -1), atol=0.5)
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    palette.putpalette([90, 80, 70, 1, 2, 3])
    assert not decoded(encoded(palette, "PNG", transparency=0)).any()
    assert (decoded(encoded(palette, "PNG", transparency=1)) == (90, 80, 70)).all()
    colour_key = encoded(Image.new("RGB", (2, 2), (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    assert not decoded(colour_key).any()


def test_cmyk_is_the_plain_complement():
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 0], cmyk[..., 3] = 255, 51
    image = decoded(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF"))
    np.testing.assert_allclose(image, np.broadcast_to([0, 204, 204], (8, 8, 3)), atol=1)
    np.testing.assert_allclose(decoded(encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95)), image, atol=6)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind, options in [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})]:
        image = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        np.testing.assert_array_equal(image, np.asarray(frames[0]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(orientation, kind):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:4, :8] = 255  # the upper left pixel
    changes = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(changes[orientation](picture)))
    np.testing.assert_allclose(decoded(encoded(stored, kind, exif=exif)), picture, atol=8)


def test_one_pixel_is_an_image():
    one = Image.new("RGB", (1, 1), (7, 8, 9))
    assert (decoded(encoded(one, "PNG")) == (7, 8, 9)).all()
    assert (centre_crop(np.asarray(one), 5) == (7, 8, 9)).all()
    assert (random_resized_crop(np.asarray(one), 5, np.random.default_rng(0)) == (7, 8, 9)).all()


def test_floating_point_and_more_than_sixteen_bits_are_refused():
    with pytest.raises(ValueError, match="'x': pixels in floating point"):
        read_image(io.BytesIO(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")), "x")
    with pytest.raises(ValueError, match="'x': pixels beyond 16 bits"):
        read_image(io.BytesIO(encoded(Image.fromarray(np.full((2, 2), 2**16, np.int32)), "TIFF")), "x")


def gradient(height, width):
    """Makes an image of its rows in the first channel and columns in the second, from 0 to 255."""
    rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    return np.rint(np.stack([rows, columns, 0 * rows], -1)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 500), (500, 300), (40, 90)])
@pytest.mark.parametrize("size", [32, 224])
def test_the_centred_crop_is_the_middle_of_the_resized_image(height, width, size):
    image = gradient(height, width)
    crop = centre_crop(image, size, rule="centred")
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    # The reference takes two steps: the shorter side to size / 0.875, then the middle.
    short = round(size / 0.875)
    scale = short / min(height, width)
    resized = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    top, left = (resized.height - size) // 2, (resized.width - size) // 2
    two_steps = np.asarray(resized)[top : top + size, left : left + size]
    # The middle may differ by half a pixel, and values by rounding.
    step = 255 / (short - 1)
    np.testing.assert_allclose(crop.astype(float), two_steps.astype(float), atol=0.51 * step + 2)
    # The middle of a gradient stays its middle, and the kept share is the ratio of the sizes.
    assert abs(crop[..., :2].mean() - 127.5) < 1
    span = (size - 1) / short * min(height, width)  # from the centre of the first pixel to that of the last
    assert abs(np.ptp(crop[..., 0].astype(float)) - 255 * span / (height - 1)) <= 2
    assert abs(np.ptp(crop[..., 1].astype(float)) - 255 * span / (width - 1)) <= 2


@pytest.mark.parametrize("rule", CROP_RULES)
def test_cropping_a_thread_of_an_image_takes_little_memory(rule):
    for shape in ((1, 1_000_000, 3), (1_000_000, 1, 3)):
        assert (centre_crop(np.full(shape, 9, np.uint8), 224, rule=rule) == 9).all()


@pytest.mark.parametrize("rule", CROP_RULES)
def test_without_zoom_the_centre_crop_changes_nothing(rule):
    np.testing.assert_array_equal(centre_crop(gradient(32, 32), 32, ratio=1, rule=rule), gradient(32, 32))


@pytest.mark.parametrize(("height", "width"), [(100, 100), (375, 500), (60, 200)])
def test_random_boxes_obey_torchvisions_law(height, width):
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(height, width, rng, 0.08) for _ in range(4000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    # Rounding a side by half a pixel changes area and aspect by this much.
    slack = 1 + 0.5 / h + 0.5 / w
    assert (h * w >= 0.08 * height * width / slack**2).all()
    assert (w / h <= 4 / 3 * slack**2).all()
    assert (w / h >= 3 / 4 / slack**2).all()
    # Both sides of a square are the longer one with equal probability.
    if height == width:
        assert abs((w > h).mean() - (h > w).mean()) < 4 / math.sqrt(4000)
        assert abs(np.log(w / h).mean()) < 4 * math.log(4 / 3) / math.sqrt(3 * 4000)


def test_where_no_box_fits_the_largest_allowed_one_is_in_the_middle():
    assert random_box(10, 1000, np.random.default_rng(0), 1.0) == (0, 493, 10, 13)
    assert random_box(1000, 10, np.random.default_rng(0), 1.0) == (493, 0, 13, 10)


def test_a_random_crop_is_its_box_stretched():
    image = gradient(60, 80)
    crop = random_resized_crop(image, 24, np.random.default_rng(5))
    top, left, h, w = random_box(60, 80, np.random.default_rng(5), 0.08)
    assert crop.shape == (24, 24, 3)
    assert abs(crop[..., 0].mean() - image[top : top + h, left : left + w, 0].mean()) < 1
    assert abs(crop[..., 1].mean() - image[top : top + h, left : left + w, 1].mean()) < 1
    np.testing.assert_array_equal(crop, random_resized_crop(image, 24, np.random.default_rng(5)))
    assert not np.array_equal(crop, random_resized_crop(image, 24, np.random.default_rng(6)))
    np.testing.assert_array_equal(random_resized_crop(image[:60, :60], 60, FullBox()), image[:60, :60])


class FullBox(np.random.Generator):
    """A random generator that always picks the whole square."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low, high):
        return high if high == 1 else 0.0

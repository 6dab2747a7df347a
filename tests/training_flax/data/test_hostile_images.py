"""Image files that would start programs, wait or ask for much: each is refused in one line, soon."""

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_flax.data.decode import read_image
from training_flax.files.image_files import LARGEST_FILE, PLUGINS, formats, image_extensions

ROOT = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n0 0 32 32 rectfill\nshowpage\n%%EOF\n"
MARKER = "something-ran"  # a file that a program in the place of Ghostscript makes
# Programs that Pillow's modules, or those for its formats, start.
PROGRAMS = (
    "gs",
    "gswin32c",
    "gswin64c",
    "djpeg",
    "cjpeg",
    "ppmquant",
    "ppmtogif",
    "convert",
    "inkscape",
    "rsvg-convert",
)


def png(width, height, *chunks, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def gif_with_comments(number):
    """Returns a GIF with this number of blocks of comments, which Pillow joins one by one."""
    start = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6)
    return start + b"\x21\xfe" + (b"\xff" + b"c" * 255) * number + b"\0"


def tiff_of(width, height):
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height % 2**32)]
    return (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    )


def icon():
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "ICO")
    return file.getvalue()


def writing(data):
    return lambda path: path.write_bytes(data)


def sparse(start, size):
    def make(path):
        path.write_bytes(start)
        os.truncate(path, size)

    return make


def bound_socket(path):
    # The path of a socket must be short.
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


FILES = {
    "EPS": (writing(EPS), "EPS is not read; the formats are JPEG, PNG"),
    "EPS with a preview": (writing(b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(EPS)) + bytes(18) + EPS), "EPS is"),
    "EPS behind an empty line": (writing(b"\n" + EPS), "not an image that Pillow reads"),
    "PDF": (writing(b"%PDF-1.4\n"), "PDF is not read"),
    "WMF": (writing(b"\xd7\xcd\xc6\x9a\0\0" + bytes(100)), "WMF is not read"),
    "EMF": (writing(struct.pack("<II", 1, 108) + bytes(32) + b" EMF" + bytes(100)), "EMF is not read"),
    "SVG": (
        writing(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
        "not an image",
    ),
    "MVG": (writing(b"push graphic-context\nimage over 0,0 0,0 'ephemeral:/etc/passwd'\n"), "not an image"),
    "GRIB": (writing(b"GRIB\0\0\0\1" + bytes(100)), "GRIB is not read"),
    "BUFR": (writing(b"BUFR" + bytes(100)), "BUFR is not read"),
    "HDF5": (writing(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5 is not read"),
    "FlashPix": (writing(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)), "a document of OLE is not read"),
    "icon": (writing(icon()), "ICO is not read"),
    "Photoshop": (writing(b"8BPS\0\1" + bytes(100)), "PSD is not read"),
    "MPEG": (writing(b"\0\0\1\xb3\x02\x00\x20" + bytes(100)), "not an image that Pillow reads"),
    "X pixmap": (writing(b'/* XPM */\nstatic char *x[] = {\n"1 1 1 1",\n"a c #000000",\n"a"};'), "not an image"),
    "IPTC": (writing(b"\x1c\x03\x0a\0\1\0" + bytes(100)), "not an image that Pillow reads"),
    "a pickle": (writing(b"\x80\x04cos\nsystem\n."), "not an image that Pillow reads"),
    "3,600 million pixels": (writing(png(60_000, 60_000)), "more than 89,478,485 pixels"),
    "one pixel too many": (writing(png(89_478_486, 1)), "more than 89,478,485 pixels"),
    "a TIFF of 4 billion pixels": (writing(tiff_of(2**31, 2)), "more than 89,478,485 pixels"),
    "no pixels for 89 million": (writing(png(9459, 9459)), "truncated"),
    "no pixels at all": (writing(png(0, 0)), ""),
    "text that expands": (
        writing(png(4, 4, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))] * 9)),
        "",
    ),
    "a profile that expands": (writing(png(4, 4, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28))))), ""),
    "pixels that expand": (writing(png(4, 4, pixels=bytes(2**28))), None),
    "comments of 50 MB": (writing(gif_with_comments(200_000)), "in too many pieces"),
    "a JPEG of zeros": (sparse(b"\xff\xd8\xff\xe0", 2**28), "in too many pieces"),
    "a terabyte": (
        sparse(b"\xff\xd8\xff\xe0", 2**40),
        f"a file of 1,099,511,627,776 bytes, more than {LARGEST_FILE:,}",
    ),
    "a WebP of gigabytes": (sparse(b"RIFF\xff\xff\xff\xffWEBPVP8L", 2**34), "a file of 17,179,869,184 bytes"),
    "nothing": (writing(b""), "not an image that Pillow reads"),
    "a pipe": (os.mkfifo, "it is a pipe, not a regular file"),
    "a socket": (bound_socket, "it is a socket, not a regular file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "it is a device, not a regular file"),
    "random numbers": (lambda path: path.symlink_to("/dev/urandom"), "it is a device, not a regular file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}

CHILD = '''
import json, sys, time
from pathlib import Path
from training_flax.data.decode import read_image, read_size
def peak():
    """Peak memory of this process in MB; getrusage would begin with that of its parent."""
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (read_size, read_image):
        start, said = time.process_time(), None
        try:
            read(str(path), path.name)
        except ValueError as error:
            said = str(error)
        seconds = time.process_time() - start
        found[path.name] = said, seconds, peak()
modules = sorted(name for name in sys.modules if name.startswith("PIL.") and name.endswith("ImagePlugin"))
print(json.dumps([found, modules]))
'''


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Reads all files, each called .png, in one process whose programs are traps."""
    root = tmp_path_factory.mktemp("hostile")
    for folder in ("images", "bin"):
        (root / folder).mkdir()
    for program in PROGRAMS:
        (root / "bin" / program).write_text(f"#!/bin/sh\ntouch {root / MARKER}\n")
        (root / "bin" / program).chmod(0o755)
    names = {}
    for number, (name, (make, _)) in enumerate(FILES.items()):
        path = root / "images" / f"{number}.png"
        make(path)
        names[path.name] = name
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root / "images")],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found, modules = json.loads(done.stdout)
    return {names[name]: value for name, value in found.items()}, modules, root


@pytest.mark.parametrize("name", FILES)
def test_one_line_soon_and_in_little_memory(met, name):
    said, seconds, peak = met[0][name]
    expected = FILES[name][1]
    if expected is not None:
        assert said is not None
        assert expected in said
        assert "\n" not in said
    assert seconds < 5
    assert peak < 1000


def test_no_program_is_started_and_no_other_module_is_loaded(met):
    _, modules, root = met
    assert not (root / MARKER).exists()
    assert {name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in modules} <= set(PLUGINS.values())


def test_the_traps_work(met, tmp_path):
    """Pillow by itself, without a list of formats, starts Ghostscript for an EPS called .png."""
    (tmp_path / "x.png").write_bytes(EPS)
    code = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    path = f"{met[2] / 'bin'}:{os.environ['PATH']}"
    child = [sys.executable, "-c", code, str(tmp_path / "x.png")]
    subprocess.run(child, env=os.environ | {"PATH": path}, capture_output=True, check=False)
    marker = met[2] / MARKER
    assert marker.exists()
    marker.unlink()


@pytest.mark.parametrize("kind", [name for name in PLUGINS if name in formats() and name != "DIB"])
def test_each_format_of_the_list_is_read_whatever_its_name(kind, tmp_path):
    pixels = np.full((8, 8, 3), 128, np.uint8)
    try:
        Image.fromarray(pixels).save(tmp_path / "x.eps", kind)
    except OSError as error:
        pytest.skip(f"this Pillow does not write {kind}: {error}")
    image = read_image(str(tmp_path / "x.eps"), "x")
    np.testing.assert_allclose(image.astype(int), pixels, atol=4)


def test_extensions_follow_from_the_list():
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".ppm", ".gif"} <= image_extensions()
    assert not {".eps", ".ps", ".wmf", ".emf", ".h5", ".grib", ".pdf", ".ico", ".psd", ".mpg"} & image_extensions()


def test_a_stream_of_bytes_stays_open_and_is_bounded_too():
    data = io.BytesIO(gif_with_comments(200_000))
    with pytest.raises(ValueError, match="'x': its header or its pixels are in too many pieces"):
        read_image(data, "x")
    assert not data.closed

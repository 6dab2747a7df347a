"""Image files as Pillow opens them: regular files, of a fixed list of formats, within bounds.

Some of Pillow's formats start other programs (EPS starts Ghostscript), hand the file to whatever handler is there (WMF,
GRIB, HDF5), or hold other formats (ICNS, IPTC). Those in the list are decoded by Pillow and its C libraries alone.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from typing import IO, Any, cast

from PIL import Image, UnidentifiedImageError

from common_flax.errors import one_line
from common_flax.files import open_regular

# Formats and Pillow's modules for them. TGA, whose files begin as they like, comes last.
PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WEBP": "WebP",
    "GIF": "Gif",
    "BMP": "Bmp",
    "DIB": "Bmp",
    "PPM": "Ppm",
    "TIFF": "Tiff",
    "AVIF": "Avif",
    "JPEG2000": "Jpeg2K",
    "QOI": "Qoi",
    "SGI": "Sgi",
    "TGA": "Tga",
}
# Starts of files whose formats are known, and not in the list.
NOT_READ = {
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\x01\x00\x00\x00": "EMF",
    b"8BPS": "PSD",
    b"icns": "ICNS",
    b"\x00\x00\x01\x00": "ICO",
    b"GRIB": "GRIB",
    b"BUFR": "BUFR",
    b"\x89HDF": "HDF5",
    b"\xd0\xcf\x11\xe0": "a document of OLE",
}
LARGEST_FILE = 2**29  # bytes: six for each of the 89 million pixels that Pillow takes
LARGEST_STRIPPED = 2**26  # bytes of a file whose metadata is cut out
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# From 254 to 532: the layout of the pixels, and the orientation; not names, resolutions and dates.
TIFF_TAGS = {254, *range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326)}
TIFF_TAGS |= {338, 339, 347, *range(512, 522), *range(529, 533)}
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
READS_OF_HEADER = 10_000  # calls; a photograph needs a hundred
READS = 1_000_000  # calls


@cache
def formats() -> tuple[str, ...]:
    """Returns the formats of the list that this Pillow has, as it names them."""
    for plugin in PLUGINS.values():
        with suppress(ImportError):  # older versions have no AVIF
            import_module(f"PIL.{plugin}ImagePlugin")
    return tuple(name for name in PLUGINS if name in Image.OPEN)


@cache
def image_extensions() -> frozenset[str]:
    """Returns the file extensions, such as ".png", of `formats`."""
    known = formats()
    return frozenset(end for end, kind in Image.EXTENSION.items() if kind in known)


class NotAnImage(ValueError):
    """Raised for a file that is of none of the formats, in one line: it is no broken image, but something else."""


def may_be_image(start: bytes) -> bool | None:
    """Tells from a file's first 16 bytes if it is of one of the formats; None if only opening the file can tell."""
    if not start or start[:4] in NOT_READ:
        return False
    accepts = [Image.OPEN[name][1] for name in formats()]
    return any(accept(start.ljust(16)) for accept in accepts if accept is not None) or None


@contextmanager
def opened(file: str | IO[bytes], name: str) -> Iterator[Image.Image]:
    """Opens an image, whose header is read and whose pixels are not; the block may decode them.

    Args:
        file: a path, or an open file.
        name: the file's name in error messages.

    Raises:
        NotAnImage: one line: the file is no image of `formats`.
        ValueError: one line: the file cannot be opened, is no regular file, too large, or broken. Errors of the block
            become such a line, too.
    """
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow would import a module by the ending of a path, whatever the list of formats.
        with _bounded(file) as bounded, Image.open(bounded, formats=formats()) as image:
            # Pillow itself only warns here, and refuses images of twice as many pixels.
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            bounded.left = READS
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name!r}: more than {limit:,} pixels") from None
    except UnidentifiedImageError:
        raise NotAnImage(f"{name!r}: not an image that Pillow reads") from None
    except NotAnImage as error:
        raise NotAnImage(f"{name!r}: {error}") from None
    except OSError as error:
        raise ValueError(f"{name!r}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # broken files make Pillow raise many kinds of errors
        raise ValueError(f"{name!r}: {one_line(error)}") from None


def without_metadata(file: IO[bytes]) -> io.BytesIO | None:
    """Returns a PNG, JPEG or TIFF without the parts that its pixels do not need; None for other files, or without such.

    EXIF stays, for the orientation: Pillow takes it as it is. Nothing but the layout of the parts is looked at.
    """
    file.seek(0)
    data = file.read(LARGEST_STRIPPED + 1)
    if len(data) > LARGEST_STRIPPED:
        return None
    kept: list[bytes] = []
    here = end = 0
    if data.startswith(PNG):
        here, kept = len(PNG), [PNG]
        while here + 12 <= len(data) and len(kept) < READS_OF_HEADER:
            end = here + 12 + int.from_bytes(data[here : here + 4], "big")
            if data[here + 4 : here + 8] in PNG_CHUNKS:
                kept.append(data[here:end])
            here = end
    elif data.startswith(JPEG):
        here, kept = len(JPEG) - 1, [JPEG[:-1]]
        while data[here : here + 1] == b"\xff" and data[here + 1 : here + 2] != b"\xda" and len(kept) < READS_OF_HEADER:
            end = here + 2 + int.from_bytes(data[here + 2 : here + 4], "big")
            marker, content = data[here + 1 : here + 2], data[here + 4 : end]
            exif, colours = content.startswith(b"Exif\0\0"), content.startswith(b"Adobe") and len(content) >= 12
            if not (b"\xe0" <= marker <= b"\xef" or marker == b"\xfe") or exif or colours:
                kept.append(data[here:end])
            here = max(end, here + 2)
        kept.append(data[here:])
    elif data[:4] in (b"II*\0", b"MM\0*"):
        kept.append(_with_tags_of_pixels(data, "<" if data[:1] == b"I" else ">"))
    stripped = b"".join(kept)
    return io.BytesIO(stripped) if stripped and stripped != data else None


def _with_tags_of_pixels(data: bytes, order: str) -> bytes:
    """Returns a TIFF whose first directory has only the entries that its pixels need."""
    start = int.from_bytes(data[4:8], "little" if order == "<" else "big") + 2
    if start > len(data):
        return b""
    (count,) = struct.unpack_from(f"{order}H", data, start - 2)
    entries = [data[place : place + 12] for place in range(start, start + 12 * count, 12)]
    needed = [entry for entry in entries if len(entry) == 12 and struct.unpack(f"{order}H", entry[:2])[0] in TIFF_TAGS]
    room = b"".join(needed) + bytes(12 * (count - len(needed)) + 4)  # no other directory follows
    return data[: start - 2] + struct.pack(f"{order}H", len(needed)) + room + data[start + len(room) :]


class _Bounded(io.BufferedReader):
    """A file of bounded size that ends with an error after many reads.

    Pillow walks through some headers in steps of a byte, and gathers some comments in time that grows with the square
    of their length: both would take hours.

    Attributes:
        left: the number of reads until the error.
    """

    left = READS_OF_HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as any file does, but not for ever."""
        self.left -= 1
        if self.left < 0:
            raise ValueError("its header or its pixels are in too many pieces")
        return super().read(size)


@contextmanager
def _bounded(file: str | IO[bytes]) -> Iterator[_Bounded]:
    with open_regular(file) if isinstance(file, str) else nullcontext(file) as source:
        bounded: Any = _Bounded(cast(Any, source))
        try:
            if (size := bounded.seek(0, io.SEEK_END)) > LARGEST_FILE:
                raise ValueError(f"a file of {size:,} bytes, more than {LARGEST_FILE:,}")
            start = bounded.seek(0) or bounded.peek(4)[:4]
            if start in NOT_READ:
                raise NotAnImage(f"{NOT_READ[start]} is not read; the formats are {', '.join(formats())}")
            yield bounded
        finally:
            bounded.detach()  # the caller's file stays open

"""Which pictures are read, and how they are prepared. Needs no Tesseract."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from ocr.pictures import MAX_SIDE, open_picture
from PIL import Image
from plugin_runtime import InvalidInput

SAMPLES = Path(__file__).parents[1] / "samples"
EXIF_ORIENTATION = 0x0112


def encoded(picture, fmt="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG whose header states a size, without the pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "size"), [("book-page.png", (1065, 1879)), ("book-page-grey.jpg", (532, 939))])
def test_the_samples_are_read_whole_and_grey(name, size):
    picture = open_picture((SAMPLES / name).read_bytes())
    assert (picture.size, picture.mode) == (size, "L")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP"])
def test_every_format_of_the_list_is_read(fmt):
    assert open_picture(encoded(Image.new("RGB", (20, 10), "white"), fmt)).size == (20, 10)


def test_transparent_areas_are_white_paper():
    ink_on_nothing = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    ink_on_nothing.putpixel((0, 0), (0, 0, 0, 255))
    picture = open_picture(encoded(ink_on_nothing))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [0, 255]


def test_sixteen_bits_of_grey_retain_their_shades():
    scan = Image.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        scan.putpixel((x, 0), value)
    picture = open_picture(encoded(scan))
    assert [picture.getpixel((x, 0)) for x in range(3)] == [0, 128, 255]


def test_a_photograph_is_turned_upright():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # lies on its side
    assert open_picture(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)).size == (20, 30)


@pytest.mark.parametrize(
    ("upload", "says"),
    [
        (b"", "is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is no image"),
        (b"just some text", "is no image"),
        ((SAMPLES / "book-page.png").read_bytes()[:2000], "is damaged"),
        ((SAMPLES / "book-page-grey.jpg").read_bytes()[:9000], "is damaged"),
        (png_of_size(8000, 8000), "8000 x 8000"),
        (png_of_size(100_000, 100_000), "too large"),
        (png_of_size(MAX_SIDE + 1, 10), "no side"),
        (png_of_size(0, 10), "is "),
    ],
    ids=["empty", "postscript", "text", "cut png", "cut jpeg", "large", "bomb", "wide", "no width"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_the_callers_to_fix(upload, says):
    with pytest.raises(InvalidInput, match=says):
        open_picture(upload)

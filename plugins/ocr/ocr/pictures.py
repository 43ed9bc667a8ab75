"""From an upload to a picture that is safe to read. What is wrong with it is the caller's to mend: `InvalidInput`."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError
from plugin_runtime import InvalidInput

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
"""What is tried. Formats that Pillow hands to other programs (EPS) are not among them."""

MAX_PIXELS = 50_000_000
"""A3 at 400 dpi has 31 million. Checked before anything is decompressed; 50 million take 200 MB in colour."""

MAX_SIDE = 32_767
"""Tesseract reads no picture that is wider or higher."""


def open_picture(data: bytes) -> Image.Image:
    """The picture in `data`: upright, in shades of grey, transparent parts white. Raises `InvalidInput`."""
    if not data:
        raise InvalidInput("The image is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(*picture.size)
            return _grey(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise InvalidInput(f"The upload is no image in a format that is read here ({', '.join(FORMATS)}).") from None
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"The image is too large: {error}") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        OverflowError,
    ) as error:  # what Pillow's decoders raise on broken data
        raise InvalidInput(f"The image is damaged: {error}") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidInput(f"The image has {width} x {height} pixels; at most {MAX_PIXELS:,} are read.")
    if max(width, height) > MAX_SIDE:
        raise InvalidInput(f"The image has {width} x {height} pixels; no side may be longer than {MAX_SIDE:,}.")


def _grey(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # a plain conversion would cut every value above 255 off to white
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("L")

"""Decodes an upload safely. Raises `InvalidInput` for a bad upload, which only the caller can fix."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError
from plugin_runtime import InvalidInput

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
"""Formats that are tried. None that Pillow passes to other programs (EPS)."""

MAX_PIXELS = 50_000_000
"""A3 at 400 dpi has 31 million. Checked before decompression; 50 million take 200 MB in colour."""

MAX_SIDE = 32_767
"""Tesseract's limit for width and height."""


def open_picture(data: bytes) -> Image.Image:
    """The picture in `data`: upright, greyscale, with a white background. Raises `InvalidInput`."""
    if not data:
        raise InvalidInput("The image is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(*picture.size)
            return _grey(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise InvalidInput(f"The upload is no image in a supported format ({', '.join(FORMATS)}).") from None
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
    if picture.mode.startswith("I;16"):  # a plain conversion would clip every value above 255 to white
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("L")

"""Decoding of image files with Pillow."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from tcvit_jax import files
from tcvit_jax.errors import invalid

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in lower case. Of a file with several images, the first one is read."""
MAX_ASPECT_RATIO = 65_535
"""That of the longest JPEG that is one pixel high."""


def refuse_large_images() -> None:
    """Make Pillow's warning of images above `Image.MAX_IMAGE_PIXELS` an error in this process.

    Pillow warns before it returns the image. Decoding runs in several threads, which share the filters of warnings, so
    the filter cannot be set for one image.
    """
    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def read_image(path: str) -> Image.Image:
    """Decode an image file to a Pillow image of mode RGB, as `decode_image` does.

    Raises:
        InputError: As `decode_image`, or the path is not a regular file. The message names the path.
    """
    files.check_regular(path, "an image")
    return decode_image(path, path)


def decode_image(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decode an image to a Pillow image of mode RGB with all pixels loaded. EXIF orientation is ignored.

    Gray, palette, transparent and CMYK images become RGB, so that all images of a folder have the same number of
    channels. Other metadata of the file is discarded, and so are all images of a file after the first one.

    Args:
        file: The path or the content of the file.
        name: The name of the file in error messages.

    Returns:
        The decoded image.

    Raises:
        InputError: The file is empty, truncated or not an image; it has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels,
            or one side is more than 65,535 times as long as the other.
    """
    try:
        with Image.open(file) as image:
            _check_size(image.size)
            if image.mode[0] in "IF":
                raise ValueError(f"expected at most 8 bits per channel, got mode {image.mode}")
            decoded = _to_rgb(image)
            # Otherwise Pillow would apply a transparent color to every later conversion of the image.
            decoded.info = {}
            return decoded
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files, depending on the format and the damage.
        raise invalid(name, f"cannot read image: {_reason(file, error)}") from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"expected at most {limit:,} pixels, got {width:,} x {height:,}")
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(f"expected an aspect ratio of at most {MAX_ASPECT_RATIO:,}, got {width:,} x {height:,}")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Load the pixels while the file is open, and convert them to RGB."""
    if image.mode == "RGB":
        image.load()
        return image
    # Pillow warns if a palette with transparency is converted to RGB directly.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(file: str | io.BytesIO, error: Exception) -> str:
    """Return what is wrong with a file that Pillow cannot read, on one line."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, the limit of Pillow"
    if isinstance(file, io.BytesIO):
        # Pillow's message would contain the repr of the BytesIO object.
        problem = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    elif Path(file).stat().st_size == 0:
        problem = "the file is empty"
    else:
        problem = str(error)
    return " ".join(problem.split()) or type(error).__name__

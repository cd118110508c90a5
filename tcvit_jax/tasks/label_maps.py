"""Folders of label maps: one PNG file for each image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from tcvit_jax.data import EvalTransform, NamedSource, Source
from tcvit_jax.errors import cannot_read, first_line, requires
from tcvit_jax.files import check_regular

# Pixels with this class are not counted.
IGNORED = 255


@dataclass(frozen=True)
class MapFolder:
    """Label maps in a directory, at `NAME.png` for the image `NAME`, with or without the folder of its class.

    Attributes:
        directory: The directory.
    """

    directory: str

    def checksum(self) -> str:
        """Return a checksum of the names and contents of all PNG files in the directory."""
        digest = xxhash.xxh3_128()
        for path in sorted(Path(self.directory).rglob("*.png")):
            digest.update(f"{path.relative_to(self.directory)}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def read(
        self, source: Source, index: int, transform: EvalTransform, size: tuple[int, int], classes: int
    ) -> np.ndarray:
        """Return the map of an image as uint8 of the size (height, width), after the transform of its image.

        Args:
            source: The images.
            index: The index of the image.
            transform: The transform of the image.
            size: The height and width of the result, whose pixels are the nearest ones.
            classes: The number of classes; 1 for a map of levels.

        Raises:
            InputError: The images have no file names, or the map is not found, cannot be read or has another class.
        """
        if not isinstance(source, NamedSource):
            raise requires("--label-maps", "images with file names", "use --config.data.name=folder or pairs")
        path = self._path(source.name(index))
        with _open(path) as image:
            labels = transform.label_map(image)
        if classes > 1 and (largest := int(labels[labels != IGNORED].max(initial=0))) >= classes:
            raise cannot_read(path, f"label {largest}: must be < {classes}, the number of classes, or {IGNORED}")
        rows, columns = ((np.arange(n) + 0.5) * m / n for n, m in zip(size, labels.shape, strict=True))
        return labels[np.ix_(rows.astype(int), columns.astype(int))]

    def _path(self, name: str) -> Path:
        nested = Path(self.directory, name).with_suffix(".png")
        flat = Path(self.directory, Path(name).name).with_suffix(".png")
        if not nested.exists() and not flat.exists():
            raise cannot_read(nested, "label map not found", f"expected one for each image, or {flat}")
        return nested if nested.exists() else flat


def _open(path: Path) -> Image.Image:
    """Return a label map as an image of mode L. The indices of a palette are the labels."""
    check_regular(path, "a label map")
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            pixels = np.asarray(image)
    except Exception as error:  # Pillow raises many types for damaged files
        raise cannot_read(path, f"cannot read label map: {first_line(error)}") from error
    if mode not in ("1", "L", "P"):
        raise cannot_read(path, f"expected a gray or palette image of 8 bits, got mode {mode}")
    return Image.fromarray(255 * pixels.astype(np.uint8) if mode == "1" else pixels)

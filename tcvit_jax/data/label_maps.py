"""Label maps: dense labels of training images, and their crops, for the token labeling of LV-ViT.

Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS 2021 (code
zihangJiang/TokenLabeling, Apache-2.0). A *label map* [2, 5, h, w] holds the five highest logits of a strong classifier
at every cell of an image: channel 0 holds the logits, channel 1 their classes. All other classes have the logit 0.

The logits of the patches of a crop are `torchvision.ops.roi_align` of the dense [classes, h, w] map over the box of the
crop, with default arguments and box edges at `cells * edge / image_side - 0.5`. RoIAlign is linear in the map and
separable, so the pipeline emits its factors instead of the dense labels, which is exact and fifty times smaller:

    dense[c, y, x] = sum over k of scores[k, y, x] where classes[k, y, x] == c
    patches[c]     = rows @ dense[c] @ columns.T                 one logit per patch
    image[c]       = image_rows @ dense[c] @ image_columns       the box as a single patch, for the class token

The targets are the softmax of these logits over the classes, times `1 - s`, plus `s / classes`, with the label
smoothing s. The official code swaps the rows and columns of the crop, but not those of its flips and shears; here the
cropped map covers the same region as the cropped image.
"""

import math
import os
from pathlib import Path
from typing import TypedDict

import numpy as np

from tcvit_jax import pickles
from tcvit_jax.errors import InputError, cannot_read, unknown
from tcvit_jax.files import check_regular

SUFFIXES = (".npy", ".npz", ".pt")
TOP_K = 5
# A thousand times a label map of 40 x 40 cells. An archive of a few bytes can claim to hold any number of them.
_MAX_BYTES = 2**26
_LAYOUT = "expected DIRECTORY/CLASS/NAME.pt"


class TokenLabels(TypedDict):
    """Token labels of a crop with a grid of gh x gw patches, as factors; the module docstring has the formula.

    Attributes:
        scores: float32 [5, h, w], the five highest logits of each cell.
        classes: int32 [5, h, w], the classes of `scores`.
        rows: float32 [gh, h], the RoIAlign weights of the patch rows.
        columns: float32 [gw, w], the RoIAlign weights of the patch columns.
        image_rows: float32 [h], the vertical RoIAlign weights of the crop as a single patch.
        image_columns: float32 [w], the horizontal RoIAlign weights of the crop as a single patch.
    """

    scores: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    image_rows: np.ndarray
    image_columns: np.ndarray


class LabelMaps:
    """Label maps in a directory: `directory/CLASS/NAME.pt` (or .npy, .npz) for the image `CLASS/NAME.JPEG`.

    Picklable. All maps must have the same size, because those of a batch are stacked.

    Args:
        directory: The directory, with one subdirectory per class.
        num_classes: The number of classes, or None to skip the check that the classes of a map are in range.

    Attributes:
        size: (h, w) of the maps, read from the first one.

    Raises:
        InputError: The directory is not found or has no label map, or the first one cannot be read.
    """

    def __init__(self, directory: str, num_classes: int | None = None) -> None:
        self._root, self._num_classes = Path(directory), num_classes
        if not self._root.is_dir():
            raise cannot_read(directory, "label map directory not found", _LAYOUT)
        height, width = read_label_map(_first_path(self._root)).shape[2:]
        self.size = height, width

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the label map of an image.

        Args:
            name: The path of the image relative to its split.

        Returns:
            float32 [2, 5, h, w].

        Raises:
            InputError: The map is not found, cannot be read, differs in size, or has a class out of range.
        """
        path = self._path(name)
        label_map = read_label_map(str(path))
        if label_map.shape[2:] != self.size:
            actual, expected = ("x".join(map(str, size)) for size in (label_map.shape[2:], self.size))
            raise cannot_read(path, f"expected {expected} label map cells, as in the first map, got {actual}")
        highest = int(label_map[1].max())
        if self._num_classes is not None and highest >= self._num_classes:
            raise cannot_read(path, f"expected label map classes in 0..{self._num_classes - 1}, got class {highest}")
        return label_map

    def _path(self, name: str) -> Path:
        for suffix in SUFFIXES:
            path = (self._root / name).with_suffix(suffix)
            if os.path.lexists(path):
                return path
        stem = (self._root / name).with_suffix("")
        raise cannot_read(name, "label map not found", f"expected {stem} with suffix {', '.join(SUFFIXES)}")


def read_label_map(path: str) -> np.ndarray:
    """Read a label map from a file.

    Args:
        path: A .npy file, a .npz file with one array, or a .pt file with one tensor. A .pt file requires torch.

    Returns:
        float32 [2, 5, h, w].

    Raises:
        InputError: The file is not found, not regular, damaged or larger than 64 MiB, or its content is not a label
            map. The message names the path.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise unknown("label map suffix", suffix, SUFFIXES)
    check_regular(path, "a label map")
    _check_bytes(path, os.stat(path).st_size)
    array = _read_torch(path) if suffix == ".pt" else _read_numpy(path)
    if array.ndim != 4 or array.shape[:2] != (2, TOP_K) or 0 in array.shape or array.dtype.kind not in "fiu":
        raise cannot_read(
            path, f"expected a numeric label map [2, {TOP_K}, h, w], got {array.dtype} {list(array.shape)}"
        )
    # A value that overflows becomes infinite and is rejected below.
    with np.errstate(over="ignore"):
        label_map = array.astype(np.float32)
    if not np.isfinite(label_map).all():
        raise cannot_read(path, "expected finite label map values, got NaN, infinity or a float32 overflow")
    if not ((label_map[1] >= 0) & (label_map[1] % 1 == 0)).all():
        raise cannot_read(path, "expected integer label map classes >= 0 in channel 1")
    return label_map


def crop_label_map(
    label_map: np.ndarray,
    box: tuple[int, int, int, int],
    image_size: tuple[int, int],
    grid: tuple[int, int],
    flip: bool = False,
) -> TokenLabels:
    """Return the token labels of a crop.

    Args:
        label_map: The label map of the full image, float32 [2, 5, h, w].
        box: (left, top, right, bottom) of the crop, in pixels of the image.
        image_size: (height, width) of the image.
        grid: (rows, columns) of patches in the crop, once it is resized to the input size of the network.
        flip: Whether the crop is flipped horizontally after cropping.
    """
    (left, top, right, bottom), (height, width) = box, image_size
    scores, classes = label_map
    cells = label_map.shape[2:]
    if flip:
        # Like the official code, flip before cropping: a box shorter than a cell is then extended to the right of the
        # flipped image.
        left, right = width - right, width - left
    vertical, horizontal = _edges(top, bottom, height, cells[0]), _edges(left, right, width, cells[1])
    order = slice(None, None, -1 if flip else 1)
    return {
        "scores": np.asarray(scores, np.float32),
        "classes": classes.astype(np.int32),
        "rows": roi_align_weights(*vertical, cells[0], grid[0]),
        "columns": np.ascontiguousarray(roi_align_weights(*horizontal, cells[1], grid[1])[:, order]),
        "image_rows": roi_align_weights(*vertical, cells[0], 1)[0],
        "image_columns": np.ascontiguousarray(roi_align_weights(*horizontal, cells[1], 1)[0, order]),
    }


def roi_align_weights(start: float, end: float, cells: int, bins: int) -> np.ndarray:
    """Return the weights of RoIAlign along one axis.

    A bin is the mean of evenly spaced samples of the linear interpolation between cell centers, which lie at
    0..cells-1; the number of samples is the bin's length in cells, rounded up. Beyond the outermost centers the value
    is constant for one cell, then 0. This is `torchvision.ops.roi_align` with `aligned=False` and `sampling_ratio=-1`,
    which extends an interval shorter than one cell to one cell.

    Args:
        start: The start of the first bin, in cells.
        end: The end of the last bin, in cells.
        cells: The length of the axis.
        bins: The number of bins that divide the interval.

    Returns:
        float32 [bins, cells].
    """
    extent = max(end - start, 1.0)
    samples = math.ceil(extent / bins)
    width = extent / bins
    offsets = (np.arange(samples) + 0.5) * width / samples
    positions = start + np.arange(bins)[:, None] * width + offsets
    is_inside = (positions >= -1) & (positions <= cells)
    positions = np.clip(positions, 0, cells - 1)
    low = np.floor(positions).astype(np.int64)
    fraction = positions - low
    weights = np.zeros((bins, cells))
    rows = np.broadcast_to(np.arange(bins)[:, None], positions.shape)
    np.add.at(weights, (rows, low), is_inside * (1 - fraction))
    np.add.at(weights, (rows, np.minimum(low + 1, cells - 1)), is_inside * fraction)
    return (weights / samples).astype(np.float32)


def _edges(start: int, end: int, pixels: int, cells: int) -> tuple[float, float]:
    """Convert an interval from pixels to cells, whose centers lie at integers."""
    return start / pixels * cells - 0.5, end / pixels * cells - 0.5


def _first_path(root: Path) -> str:
    """Return the path of the first label map in sorted order, the same on every machine."""
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.name[0] != ".")
        if files:
            return str(files[0])
    raise cannot_read(root, f"label maps ({', '.join(SUFFIXES)}) not found", _LAYOUT)


def _read_numpy(path: str) -> np.ndarray:
    try:
        # np.load leaves a file that it opened and cannot read to the garbage collector, so open it here.
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            if len(content.files) == 1:
                _check_bytes(path, sum(member.file_size for member in content.zip.infolist()))
                return content[content.files[0]]
            raise cannot_read(path, f"expected one label map in the archive, got {', '.join(content.files) or 'none'}")
    except InputError:
        raise
    # NumPy, zipfile and zlib raise many types for damaged files, and a memory error for a size that a file only claims.
    except Exception as error:
        raise _read_error(path, error) from error


def _read_torch(path: str) -> np.ndarray:
    content = pickles.load(path, "save the maps as .npy")
    import torch

    if not isinstance(content, torch.Tensor):
        raise cannot_read(path, f"expected a label map tensor, got {type(content).__name__}")
    # NumPy has no bfloat16.
    return (content.float() if content.is_floating_point() else content).numpy()


def _check_bytes(path: str, size: int) -> None:
    if size > _MAX_BYTES:
        raise cannot_read(path, f"expected a label map of at most {_MAX_BYTES:,} bytes, got {size:,}")


def _read_error(path: str, error: Exception) -> InputError:
    return cannot_read(path, f"cannot read the label map: {' '.join(str(error).split()) or type(error).__name__}")

"""Dense labels of training images, and the part of them that belongs to a random crop: LV-ViT's token labels.

Jiang et al., "All Tokens Matter: Token Labeling for Training Better Vision Transformers", NeurIPS 2021 (code
zihangJiang/TokenLabeling, Apache-2.0). A strong classifier was applied to every cell of an image, and of its logits the
five highest were kept: a *label map* [2, 5, h, w], whose channel 0 has the logits and channel 1 their classes. All
other classes have the logit 0.

The logits of a crop's patches are `torchvision.ops.roi_align` of the dense [classes, h, w] map over the crop's box,
with its default arguments and the box at `side * edge / image_side - 0.5`. This is linear in the map, and separable: it
is not the dense labels that leave the data room but what they are made of, which is exact and fifty times smaller:

    dense[c, y, x] = sum over k of scores[k, y, x] where classes[k, y, x] == c
    patches[c]     = rows @ dense[c] @ columns.T                 one logit for each patch
    image[c]       = image_rows @ dense[c] @ image_columns       that of the box as one patch, for the class token

The targets are the softmax of these logits over the classes, times `1 - s + s / classes`, plus `s / classes`, with the
label smoothing s. The official code takes the crop's rows for columns, and its columns for rows, though its flips and
its shears have them right; here a crop is the part of the map that shows in the image.
"""

import math
import zipfile
from pathlib import Path
from typing import TypedDict

import numpy as np

from tcvit_jax.errors import InputError, unknown

SUFFIXES = (".npy", ".npz", ".pt")
TOP = 5


class TokenLabels(TypedDict):
    """The labels of a crop with a grid of gh x gw patches, by the formula of this module.

    `scores` is float32 [5, h, w] and `classes` int32 [5, h, w]; float32 are also `rows` [gh, h], `columns` [gw, w],
    `image_rows` [h] and `image_columns` [w].
    """

    scores: np.ndarray
    classes: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    image_rows: np.ndarray
    image_columns: np.ndarray


class LabelMaps:
    """The label maps in a directory, `directory/CLASS/NAME.pt` (or .npy, .npz) for the image `CLASS/NAME.JPEG`.

    Picklable. All maps must have one size, since those of a batch are stacked.

    Args:
        directory: the directory with one directory for each class.
        classes: how many classes there are; None does not check the maps against it.

    Attributes:
        size: (h, w) of the maps, from the first one.

    Raises:
        InputError: the directory does not exist or has no label map, or the first one cannot be read.
    """

    def __init__(self, directory: str, classes: int | None = None) -> None:
        self._root, self._classes = Path(directory), classes
        if not self._root.is_dir():
            raise InputError(f"label map directory {directory} does not exist; expected DIRECTORY/CLASS/NAME.pt")
        height, width = read_label_map(_first_map(self._root)).shape[2:]
        self.size = height, width

    def __getitem__(self, name: str) -> np.ndarray:
        """The label map, float32 [2, 5, h, w], of an image whose path relative to its split is `name`.

        Raises:
            InputError: there is no such map, it cannot be read, has another size, or a class that is out of range.
        """
        path = self._find(name)
        label_map = read_label_map(str(path))
        if label_map.shape[2:] != self.size:
            found, expected = ("x".join(map(str, size)) for size in (label_map.shape[2:], self.size))
            raise InputError(f"label map {path} has {found} cells, and the others have {expected}")
        highest = int(label_map[1].max())
        if self._classes is not None and highest >= self._classes:
            raise InputError(f"label map {path} has class {highest}, and classes are 0..{self._classes - 1}")
        return label_map

    def _find(self, name: str) -> Path:
        for suffix in SUFFIXES:
            path = (self._root / name).with_suffix(suffix)
            if path.is_file():
                return path
        wanted = (self._root / name).with_suffix("")
        raise InputError(f"image {name} has no label map: there is no {wanted} with suffix {', '.join(SUFFIXES)}")


def read_label_map(path: str) -> np.ndarray:
    """Reads a label map, float32 [2, 5, h, w], from .npy, from .npz with one array, or from .pt, which needs torch.

    Raises:
        InputError: the file is missing or damaged, or what it holds is no label map; the message holds the path.
    """
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise unknown("suffix of a label map", suffix, SUFFIXES)
    array = _read_torch(path) if suffix == ".pt" else _read_numpy(path)
    if array.ndim != 4 or array.shape[:2] != (2, TOP) or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(f"label map {path} is {array.dtype} {list(array.shape)}, not numbers [2, {TOP}, h, w]")
    # What overflows is infinite, and refused like what was.
    with np.errstate(over="ignore"):
        label_map = array.astype(np.float32)
    if not np.isfinite(label_map).all():
        raise InputError(f"label map {path} has values that are not finite")
    if not ((label_map[1] >= 0) & (label_map[1] % 1 == 0)).all():
        raise InputError(f"label map {path} has classes that are no whole numbers from 0 on")
    return label_map


def crop_label_map(
    label_map: np.ndarray,
    box: tuple[int, int, int, int],
    image: tuple[int, int],
    grid: tuple[int, int],
    flip: bool = False,
) -> TokenLabels:
    """The labels of the patches of a crop.

    Args:
        label_map: float32 [2, 5, h, w], of the whole image.
        box: the crop's (left, top, right, bottom), in pixels of the image.
        image: (height, width) of the image.
        grid: (rows, columns) of patches that the crop, resized to the network's input, has.
        flip: whether the crop was mirrored, left to right, after it was cut.
    """
    (left, top, right, bottom), (height, width) = box, image
    scores, classes = label_map
    cells = label_map.shape[2:]
    if flip:
        # The image is mirrored first here, as in the official code: a tiny box is widened to its right.
        left, right = width - right, width - left
    vertical, horizontal = _edges(top, bottom, height, cells[0]), _edges(left, right, width, cells[1])
    turn = slice(None, None, -1 if flip else 1)
    return {
        "scores": np.asarray(scores, np.float32),
        "classes": classes.astype(np.int32),
        "rows": roi_align_weights(*vertical, cells[0], grid[0]),
        "columns": np.ascontiguousarray(roi_align_weights(*horizontal, cells[1], grid[1])[:, turn]),
        "image_rows": roi_align_weights(*vertical, cells[0], 1)[0],
        "image_columns": np.ascontiguousarray(roi_align_weights(*horizontal, cells[1], 1)[0, turn]),
    }


def roi_align_weights(first: float, last: float, cells: int, bins: int) -> np.ndarray:
    """RoIAlign along one axis: how much each cell counts in each bin, float32 [bins, cells].

    The mean of evenly spaced samples of the linear interpolation between cell centers, which lie at 0..cells-1; a bin
    has as many samples as it covers cells, rounded up. Beyond the outermost centers the value is constant for one cell,
    then 0. It is `torchvision.ops.roi_align` with `aligned=False` and `sampling_ratio=-1`: a shorter interval is made
    one cell long.

    Args:
        first: where the first bin begins.
        last: where the last bin ends.
        cells: the length of the axis.
        bins: how many bins the interval is divided into.
    """
    extent = max(last - first, 1.0)
    samples = math.ceil(extent / bins)
    width = extent / bins
    offsets = (np.arange(samples) + 0.5) * width / samples
    places = first + np.arange(bins)[:, None] * width + offsets
    inside = (places >= -1) & (places <= cells)
    clipped = np.clip(places, 0, cells - 1)
    low = np.floor(clipped).astype(np.int64)
    share = clipped - low
    weights = np.zeros((bins, cells))
    rows = np.broadcast_to(np.arange(bins)[:, None], places.shape)
    np.add.at(weights, (rows, low), inside * (1 - share))
    np.add.at(weights, (rows, np.minimum(low + 1, cells - 1)), inside * share)
    return (weights / samples).astype(np.float32)


def _edges(first: int, last: int, pixels: int, cells: int) -> tuple[float, float]:
    """An interval of pixels in cells, whose centers are whole numbers."""
    return first / pixels * cells - 0.5, last / pixels * cells - 0.5


def _first_map(root: Path) -> str:
    """The path of some label map, the same on every machine."""
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.name[0] != ".")
        if files:
            return str(files[0])
    raise InputError(f"no label maps ({', '.join(SUFFIXES)}) in {root}; expected DIRECTORY/CLASS/NAME.pt")


def _read_numpy(path: str) -> np.ndarray:
    try:
        # Opened here, since NumPy leaves what it opened and cannot read to the garbage collector.
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            if len(loaded.files) == 1:
                return loaded[loaded.files[0]]
            raise InputError(f"label map {path} must hold one array, and holds {', '.join(loaded.files) or 'none'}")
    except InputError:
        raise
    # NumPy and zipfile report what is damaged by any of these.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read label map {path}: {' '.join(str(error).split())}") from error


def _read_torch(path: str) -> np.ndarray:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'label map {path} needs torch, which is not installed: pip install "tcvit_jax[convert]", or save the maps '
            "as .npy"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Pickles, archives and files fail by a dozen types.
        raise InputError(f"cannot read label map {path}: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, torch.Tensor):
        raise InputError(f"label map {path} holds a {type(loaded).__name__}, not a tensor")
    # NumPy has no bfloat16.
    return (loaded.float() if loaded.is_floating_point() else loaded).numpy()

"""Rows of a training batch: an augmented image, its label and, with label maps, its token labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tcvit_jax.data.label_maps import LabelMaps, crop_label_map
from tcvit_jax.data.sources.base import Example, ImageLike, NamedSource, Source, size_of
from tcvit_jax.data.transforms import TrainTransform
from tcvit_jax.errors import out_of_range, requires

Row = dict[str, np.ndarray]
Augment = Callable[[ImageLike, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class TokenLabeling:
    """Label maps and the patch grid of the network.

    A label map is cropped and flipped with its image. Unlike in the official code of LV-ViT, operations of RandAugment
    that move pixels do not change it.

    Attributes:
        maps: Label maps of all training images.
        grid: (rows, columns) of patches in the input of the network.

    Raises:
        InputError: The grid has no patches, at construction.
    """

    maps: LabelMaps
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        """Validate fields here, because a worker process would report errors late."""
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise out_of_range("grid", self.grid, "(rows, columns), both >= 1")


@dataclass(frozen=True)
class RowReader:
    """Picklable function that reads and augments one example."""

    source: Source
    transform: Augment

    def __call__(self, index: int, rng: np.random.Generator) -> Row:
        """Return `image` uint8 [H, W, C], `label` int32 and `index` int64."""
        example = self.source[index]
        return _row(self.transform(example["image"], rng), example, index)


@dataclass(frozen=True)
class LabeledRowReader:
    """`RowReader` that adds token labels; both draw the same augmentation from the same generator."""

    source: NamedSource
    transform: TrainTransform
    labeling: TokenLabeling

    def __call__(self, index: int, rng: np.random.Generator) -> Row:
        """Return the row of `RowReader` and the fields of `TokenLabels` as `map_scores`, `map_classes`, ..."""
        example = self.source[index]
        image, name = example["image"], self.source.name(index)
        size = size_of(image)
        augmentation = self.transform.draw(size, rng)
        label_map = self.labeling.maps[name]
        labels = crop_label_map(label_map, augmentation.box, size, self.labeling.grid, augmentation.flip)
        row = _row(self.transform.apply(image, augmentation), example, index)
        return row | {f"map_{key}": np.asarray(values) for key, values in labels.items()}


def create_reader(source: Source, transform: Augment, labeling: TokenLabeling | None) -> RowReader | LabeledRowReader:
    """Return the function that reads a row of a training batch.

    Args:
        source: The examples. Label maps require a `NamedSource`.
        transform: The augmentation. Label maps require a `TrainTransform` with mode `"crop"`.
        labeling: Label maps, or None.

    Raises:
        InputError: `labeling` does not support the source or the transform.
    """
    if labeling is None:
        return RowReader(source, transform)
    if not isinstance(source, NamedSource):
        requirement = f"a source with image names, got {type(source).__name__}"
        raise requires("token labeling", requirement, "use an image folder, source 'folder'")
    if not isinstance(transform, TrainTransform):
        name = getattr(transform, "__name__", type(transform).__name__)
        raise requires("token labeling", f"a TrainTransform, got {name}", "use TrainTransform")
    if transform.mode != "crop":
        requirement = f"augmentation mode 'crop', got {transform.mode!r}"
        raise requires("token labeling", requirement, "use 'crop'")
    return LabeledRowReader(source, transform, labeling)


def _row(image: np.ndarray, example: Example, index: int) -> Row:
    return {"image": image, "label": np.array(example["label"], np.int32), "index": np.array(index, np.int64)}

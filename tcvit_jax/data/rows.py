"""What a row of a training batch is made of: an image, augmented, its label, and the part of its label map in view."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tcvit_jax.data.label_maps import LabelMaps, crop_label_map
from tcvit_jax.data.sources.base import Example, ImageLike, NamedSource, Source, size_of
from tcvit_jax.data.transforms import TrainTransform
from tcvit_jax.errors import InputError

Row = dict[str, np.ndarray]
Augment = Callable[[ImageLike, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class TokenLabeling:
    """Label maps for a network with a grid of patches.

    The part of a map that belongs to a row is that of the row's crop, flipped with it. Operations of RandAugment that
    move pixels are not followed, though the official code of LV-ViT warps its maps by them.

    Attributes:
        maps: of every training image.
        grid: (rows, columns) of patches that the network divides its input into.

    Raises:
        InputError: a grid without patches, at construction.
    """

    maps: LabelMaps
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        """Checks the grid now, since a worker process would report it late."""
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise InputError(f"grid {self.grid} of patches must be (rows, columns), both 1 or more")


@dataclass(frozen=True)
class PlainRow:
    """Picklable: reads and augments one example; label and index get the types that batches of them have."""

    source: Source
    transform: Augment

    def __call__(self, index: int, rng: np.random.Generator) -> Row:
        """`image` uint8 [H, W, C], `label` int32 and `index` int64."""
        example = self.source[index]
        return _row(self.transform(example["image"], rng), example, index)


@dataclass(frozen=True)
class LabeledRow:
    """Picklable: a `PlainRow`, from the same numbers, and the labels of its crop's patches."""

    source: NamedSource
    transform: TrainTransform
    labeling: TokenLabeling

    def __call__(self, index: int, rng: np.random.Generator) -> Row:
        """A `PlainRow`'s, and as `map_scores`, `map_classes`, ... what `TokenLabels` lists."""
        example = self.source[index]
        image, name = example["image"], self.source.name(index)
        size = size_of(image)
        drawn = self.transform.draw(size, rng)
        labels = crop_label_map(self.labeling.maps[name], drawn.box, size, self.labeling.grid, drawn.flip)
        row = _row(self.transform.apply(image, drawn), example, index)
        return row | {f"map_{key}": np.asarray(values) for key, values in labels.items()}


def reader(source: Source, transform: Augment, labeling: TokenLabeling | None) -> PlainRow | LabeledRow:
    """What reads a row.

    Raises:
        InputError: there are label maps, and images without names, or a transform without crops that maps can follow.
    """
    if labeling is None:
        return PlainRow(source, transform)
    if not isinstance(source, NamedSource):
        raise InputError(
            f"label maps are found by the names of image files, which {type(source).__name__} has not: use a folder of "
            "images, source 'folder'"
        )
    if not isinstance(transform, TrainTransform):
        name = getattr(transform, "__name__", type(transform).__name__)
        raise InputError(f"label maps follow the crops of a TrainTransform, and not {name}: use TrainTransform")
    if transform.mode != "crop":
        raise InputError(
            f"label maps follow the crops of augmentation mode 'crop', and not {transform.mode!r}: use 'crop'"
        )
    return LabeledRow(source, transform, labeling)


def _row(image: np.ndarray, example: Example, index: int) -> Row:
    return {"image": image, "label": np.array(example["label"], np.int32), "index": np.array(index, np.int64)}

"""Dense task: a map that a decoder computes of the restored patch features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tcvit_jax.data import Source
from tcvit_jax.errors import requires
from tcvit_jax.models import ViT
from tcvit_jax.ops.images import normalize
from tcvit_jax.tasks.base import Forward, Subject, Task, compile_step, map_batches
from tcvit_jax.tasks.decoder import Decoder, load_decoder
from tcvit_jax.tasks.label_maps import IGNORED, MapFolder
from tcvit_jax.tasks.pairs import check_max_pairs, first_pairs
from tcvit_jax.tasks.scores import Scores, count_nonfinite


@dataclass(frozen=True)
class Maps:
    """The maps of all images.

    Attributes:
        values: `[weights, images, H, W]`: float32 probabilities of a map of one channel, or the int32 classes with the
            highest scores.
        is_finite: `[weights, images]` bool, whether the map of an image is finite.
    """

    values: np.ndarray
    is_finite: np.ndarray


@dataclass(frozen=True)
class Dense(Task[Maps]):
    """Agreement of a decoded map with the map of the dense model, or with label maps.

    A map of one channel holds probabilities: the IoU is that of the areas above 0.5, and the error is the mean absolute
    difference. A map of several channels holds scores of classes: the IoU is the mean over the classes that occur in
    either map, and the error is the fraction of pixels of another class.

    Attributes:
        decoder: `package.module:NAME` of a Flax module, as for `load_decoder`.
        decoder_weights: Its weights.
        label_maps: A directory of label maps; empty to compare with the dense model. For a map of one channel, levels
            above 127 are in the area.
        max_pairs: The number of pairs to read of images in pairs, the first ones by name; 0 for all images of any kind.
    """

    NAME: ClassVar[str] = "dense"
    METRICS: ClassVar[tuple[str, ...]] = ("iou", "error")

    decoder: str = ""
    decoder_weights: str = ""
    label_maps: str = ""
    max_pairs: int = 0

    def __post_init__(self) -> None:
        check_max_pairs(self.max_pairs)
        for flag, value in (("--decoder", self.decoder), ("--decoder-weights", self.decoder_weights)):
            if not value:
                raise requires("--task dense", flag, "--decoder package.module:NAME --decoder-weights FILE")

    @property
    def compares_with_dense(self) -> bool:
        """Whether the reference of the scores is the outputs of the dense model."""
        return not self.label_maps

    @cached_property
    def _decoder(self) -> Decoder:
        return load_decoder(self.decoder, self.decoder_weights)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the scores depend on; instead of paths, checksums of the weights and of the label maps."""
        return {
            "name": self.NAME,
            "decoder": self.decoder,
            "decoder_weights": self._decoder.checksum,
            "label_maps": MapFolder(self.label_maps).checksum() if self.label_maps else "",
            "max_pairs": self.max_pairs,
        }

    def select(self, source: Source) -> Source:
        """Return the images to read.

        Raises:
            InputError: There are fewer pairs than `max_pairs`.
        """
        return first_pairs(source, self.max_pairs, "--max-pairs") if self.max_pairs else source

    def check(self, model: ViT) -> None:
        """Check that the decoder fits the model.

        Raises:
            InputError: It does not.
        """
        self._decoder.map_shape(model.grid, model.embed_dim)

    def computed_macs(self, model: ViT) -> int:
        """Return the multiply-adds of `forward` for one image, which include all patch tokens of the last block."""
        return model.cost().total

    def forward(self, model: ViT) -> Forward:
        """Return the patch features of images on their original grid, `[B, h, w, D]`."""
        return lambda variables, images: cast(
            Array, model.apply(variables, images, method="features", restore=True)
        )  # fmt: skip

    def outputs(self, subject: Subject, mesh: Mesh) -> Maps:
        """Return the maps of all images. Features of a smaller grid are resized to `subject.grid`, bilinearly.

        Raises:
            InputError: The decoder does not fit the model.
        """
        decoder, forward, preprocessing = self._decoder, self.forward(subject.model), subject.preprocessing
        channels = decoder.map_shape(subject.grid, subject.model.embed_dim)[2]

        def decode(all_variables: Any, batch: Any) -> tuple[Array, Array]:
            variables, decoder_variables = all_variables
            features = forward(variables, normalize(batch["image"], preprocessing.mean, preprocessing.std))
            features = features.astype(jnp.float32)
            if features.shape[1:3] != subject.grid:
                shape = (features.shape[0], *subject.grid, features.shape[-1])
                features = jax.image.resize(features, shape, "linear", antialias=False)
            scores = cast(Array, decoder.module.apply(decoder_variables, features))
            is_finite = jnp.isfinite(scores).all((1, 2, 3))
            if channels > 1:
                return scores.argmax(-1).astype(jnp.int32), is_finite
            return jnp.where(is_finite[:, None, None], scores[..., 0], 0).astype(jnp.float32), is_finite

        with_decoder = replace(subject, variables=[(each, decoder.variables) for each in subject.variables])
        data = subject.data
        return Maps(
            *map_batches(compile_step(decode, mesh), with_decoder, data.batches(), len(data.source), mesh)
        )  # fmt: skip

    def reference(self, dense: Subject, mesh: Mesh) -> Maps:
        """Return the maps of the dense model, or the label maps.

        Raises:
            InputError: The decoder does not fit the model, or a label map cannot be read.
        """
        if not self.label_maps:
            return self.outputs(dense, mesh)
        source, transform, folder = dense.data.source, dense.data.transform, MapFolder(self.label_maps)
        height, width, channels = self._decoder.map_shape(dense.grid, dense.model.embed_dim)
        labels = np.stack([
            folder.read(source, index, transform, (height, width), channels) for index in range(len(source))
        ])  # fmt: skip
        values = (labels > 127).astype(np.float32) if channels == 1 else labels.astype(np.int32)
        return Maps(values[None], np.ones((1, len(source)), bool))

    def scores(self, outputs: Maps, reference: Maps | None) -> Scores:
        """Return the IoU and the error of each image; 0 and 1 for an image whose map is not finite."""
        assert reference is not None
        targets = np.broadcast_to(reference.values, outputs.values.shape)
        is_classes, ignored = outputs.values.dtype == np.int32, IGNORED if self.label_maps else None
        compare = partial(compare_classes, ignored=ignored) if is_classes else compare_areas
        values = np.array(
            [[compare(*pair) for pair in zip(*rows, strict=True)] for rows in zip(outputs.values, targets, strict=True)]
        )
        iou = np.where(outputs.is_finite, values[..., 0], 0).astype(np.float32)
        error = np.where(outputs.is_finite, values[..., 1], 1).astype(np.float32)
        return Scores({"iou": iou, "error": error}, count_nonfinite(outputs.is_finite))


def compare_areas(values: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return the IoU of the areas above 0.5 of two maps `[H, W]`, 1 if both are empty, and the mean absolute error."""
    area, target_area = values > 0.5, target > 0.5
    union = (area | target_area).sum()
    iou = (area & target_area).sum() / union if union else 1.0
    return float(iou), float(np.abs(values - target).mean(dtype=np.float64))


def compare_classes(values: np.ndarray, target: np.ndarray, ignored: int | None = None) -> tuple[float, float]:
    """Return the mean IoU over the classes of two maps `[H, W]` of integers, and the fraction of pixels that differ.

    Args:
        values: The classes.
        target: The expected classes.
        ignored: A class of `target` whose pixels are not counted; if there are no others, the result is `(1, 0)`.
    """
    is_counted = np.ones(target.shape, bool) if ignored is None else target != ignored
    actual, expected = values[is_counted].astype(np.int64), target[is_counted].astype(np.int64)
    if not len(expected):
        return 1.0, 0.0
    size = int(max(actual.max(), expected.max())) + 1
    counts = np.bincount(actual, minlength=size) + np.bincount(expected, minlength=size)
    shared = np.bincount(actual[actual == expected], minlength=size)
    union = counts - shared
    return float((shared[union > 0] / union[union > 0]).mean()), float((actual != expected).mean())

"""Top-1 and top-5 hits by image, and confidence intervals of paired differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh

from tcvit_jax import sharding
from tcvit_jax.data import Batch
from tcvit_jax.evaluation import make_rank_step
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.report.progress import announce_first_call

# The 97.5 % quantile of the standard normal distribution, for 95 % confidence intervals.
Z95 = 1.959964


_Bits = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})+$")]


class HitsJson(TypedDict):
    """The form of `Hits.to_json`."""

    images: Annotated[int, msgspec.Meta(ge=1)]
    top1: list[_Bits]
    top5: list[_Bits]
    nonfinite: Annotated[int, msgspec.Meta(ge=0)]


def find_hits_problem(values: Mapping[str, Any], weights: int, images: int) -> str | None:
    """Return what is wrong with stored hits of `weights` rows and `images` columns, or None."""
    size = 2 * (-(-images // 8))
    sizes = [[len(text) for text in values[key]] for key in ("top1", "top5")]
    if values["images"] != images or sizes != 2 * [weights * [size]]:
        return f"expected the hits of {weights} weights on {images} images"
    return None


@dataclass(frozen=True)
class Hits:
    """Top-1 and top-5 hits on a split.

    Attributes:
        top1: `[weights, images]` bool, whether the label has the highest logit.
        top5: `[weights, images]` bool, whether the label is among the five highest logits.
        nonfinite: The number of images with a logit that is NaN or infinite, for any of the weights.
    """

    top1: np.ndarray
    top5: np.ndarray
    nonfinite: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Hits:
        """Return the hits of the result of `to_json`."""
        rows = (np.asarray([_unpack(text, values["images"]) for text in values[key]]) for key in ("top1", "top5"))
        return cls(*rows, nonfinite=values["nonfinite"])

    def to_json(self) -> dict[str, Any]:
        """Return the hits as plain values, with a hexadecimal string of bits for each row."""
        packed = {key: [np.packbits(row).tobytes().hex() for row in getattr(self, key)] for key in ("top1", "top5")}
        return {"images": self.top1.shape[1], **packed, "nonfinite": self.nonfinite}


def _unpack(text: str, images: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)


def hits(
    model: ViT,
    preprocessing: Preprocessing,
    weights: Iterable[Mapping[str, Any]],
    batches: Iterable[Batch],
    mesh: Mesh,
    progress: Callable[[int], object] = lambda images: None,
) -> Hits:
    """Evaluate a model with several sets of weights, with one compilation and one pass over the data.

    Args:
        model: The model.
        preprocessing: The preprocessing of the images.
        weights: The variables of the model, one for each row of the result.
        batches: Masked batches; padding is left out.
        mesh: The mesh over which batches are sharded.
        progress: Called after every batch with the number of images that are done, including padding.

    Returns:
        The hits on all images.
    """
    step = announce_first_call(
        make_rank_step(model, preprocessing, mesh), f"compiling the evaluation of {model.variant}"
    )
    device_weights = [sharding.place_replicated(variables, mesh) for variables in weights]
    ranks: list[list[np.ndarray]] = [[] for _ in device_weights]
    nonfinite = 0
    for index, batch in enumerate(batches):
        device_batch = sharding.place(batch, mesh)
        is_valid = batch["mask"] > 0
        is_finite = is_valid
        for batch_ranks, variables in zip(ranks, device_weights, strict=True):
            rank, is_finite_row = jax.device_get(step(variables, device_batch))
            batch_ranks.append(rank[is_valid])
            is_finite = is_finite & is_finite_row
        nonfinite += int(is_valid.sum() - is_finite.sum())
        progress((index + 1) * len(is_valid))
    rank = np.stack([np.concatenate(batch_ranks) for batch_ranks in ranks])
    return Hits(rank < 1, rank < 5, nonfinite)


@dataclass(frozen=True)
class Difference:
    """The difference in accuracy of two methods on the same images, with a 95 % confidence interval.

    Attributes:
        mean: The mean difference.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(method: np.ndarray, reference: np.ndarray) -> Difference:
    """Return the mean difference of the hits of two methods, with its normal confidence interval.

    The images are the sample; each image contributes its mean over weights.

    Args:
        method: `[weights, images]` bool, the hits of the method.
        reference: `[weights, images]` bool, the hits of the method that it is compared with.
    """
    differences = (method.astype(np.float64) - reference.astype(np.float64)).mean(0)
    mean = float(differences.mean())
    margin = Z95 * float(differences.std(ddof=1)) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return Difference(mean, mean - margin, mean + margin)

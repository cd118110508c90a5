"""Which images a method gets right, and how sure a difference between two methods is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tcvit_jax import sharding
from tcvit_jax.data import Batch
from tcvit_jax.evaluation import make_rank_step
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing

# Of a normal distribution, for an interval that holds 95 % of it.
Z95 = 1.959964


@dataclass(frozen=True)
class Hits:
    """Which images of a split have their label in front, or among the first five: bool `[weights, images]`."""

    top1: np.ndarray
    top5: np.ndarray

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Hits:
        """From what `to_json` made."""
        return cls(*(np.asarray([_unpack(text, values["images"]) for text in values[key]]) for key in ("top1", "top5")))

    def to_json(self) -> dict[str, Any]:
        """A hexadecimal string of bits for each row."""
        packed = {key: [np.packbits(row).tobytes().hex() for row in getattr(self, key)] for key in ("top1", "top5")}
        return {"images": self.top1.shape[1], **packed}


def _unpack(text: str, images: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=images).astype(bool)


def hits(
    model: ViT,
    preprocessing: Preprocessing,
    weights: Iterable[Mapping[str, Any]],
    batches: Iterable[Batch],
    mesh: Mesh,
) -> Hits:
    """Of a model with each of several weights, on every image of masked batches; one compilation, one pass."""
    step = make_rank_step(model, preprocessing, mesh)
    placed = [sharding.place_replicated(variables, mesh) for variables in weights]
    ranks: list[list[np.ndarray]] = [[] for _ in placed]
    for batch in batches:
        on_device = sharding.place(batch, mesh)
        for found, variables in zip(ranks, placed, strict=True):
            found.append(np.asarray(jax.device_get(step(variables, on_device)))[batch["mask"] > 0])
    rank = np.stack([np.concatenate(found) for found in ranks])
    return Hits(rank < 1, rank < 5)


@dataclass(frozen=True)
class Difference:
    """How much more often one method is right than another on the same images, with a 95 % confidence interval."""

    mean: float
    low: float
    high: float


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of two methods' hits, bool `[weights, images]`: the mean of their difference, and its normal interval.

    The images are the sample: of several weights, each image counts with its mean over them.
    """
    each = (ours.astype(np.float64) - theirs.astype(np.float64)).mean(0)
    mean = float(each.mean())
    margin = Z95 * float(each.std(ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return Difference(mean, mean - margin, mean + margin)

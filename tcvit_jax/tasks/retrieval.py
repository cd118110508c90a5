"""Retrieval of pairs: the partner of an image among the images of the other folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tcvit_jax.data import Source
from tcvit_jax.evaluation import label_rank
from tcvit_jax.tasks.features import FeatureOutputs, FeatureTask
from tcvit_jax.tasks.neighbors import map_queries, similarities
from tcvit_jax.tasks.pairs import check_max_pairs, first_pairs
from tcvit_jax.tasks.scores import Scores


@dataclass(frozen=True)
class Retrieval(FeatureTask):
    """Recall of the partner of an image by cosine, at 1 and at 5, in both directions.

    Attributes:
        max_pairs: The number of pairs to read, the first ones by name; 0 for all.
    """

    NAME: ClassVar[str] = "retrieval"
    METRICS: ClassVar[tuple[str, ...]] = ("recall1", "recall5", "cosine")

    max_pairs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_max_pairs(self.max_pairs)

    def select(self, source: Source) -> Source:
        """Return the pairs to read.

        Raises:
            InputError: The source has no pairs, or fewer than `max_pairs`.
        """
        return first_pairs(source, self.max_pairs, "--task retrieval")

    def scores(self, outputs: FeatureOutputs, reference: FeatureOutputs | None) -> Scores:
        """Return the hits of all queries, in the order of the source, and the cosines with the dense features."""
        assert reference is not None
        images = outputs.images
        ranks = np.stack([partner_ranks(features) for features in images.values])
        metrics = {"recall1": (ranks < 1) & images.is_finite, "recall5": (ranks < 5) & images.is_finite}
        return Scores({**metrics, "cosine": images.cosine(reference.images)}, images.nonfinite)


def partner_ranks(features: np.ndarray) -> np.ndarray:
    """Return the rank of the partner of each image among the images of the other half. Of equals, the first wins.

    Args:
        features: `[2 * pairs, D]` float32, of unit length: the images of one folder and then their partners.

    Returns:
        `[2 * pairs]` int32.
    """
    pairs = len(features) // 2
    partners = np.arange(pairs, dtype=np.int32)
    halves = features[:pairs], features[pairs:]
    return np.concatenate([
        map_queries(partial(_ranks, jnp.asarray(candidates)), queries, partners, pairs)
        for queries, candidates in (halves, halves[::-1])
    ])  # fmt: skip


@jax.jit
def _ranks(candidates: Array, queries: Array, partners: Array, indices: Array) -> Array:
    return label_rank(similarities(queries, candidates), partners)

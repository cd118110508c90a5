"""Weighted k-nearest neighbors on frozen features, as in the evaluation of DINO (Caron et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tcvit_jax.errors import check_range, out_of_range
from tcvit_jax.evaluation import label_rank
from tcvit_jax.tasks.features import FeatureOutputs, FeatureTask
from tcvit_jax.tasks.neighbors import map_queries, similarities
from tcvit_jax.tasks.scores import Scores

# The rank of a label that no neighbor has, whose image is never correct.
_NO_VOTE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Knn(FeatureTask):
    """Accuracy of k-nearest-neighbor classification.

    The `k` training images with the highest cosine vote for their classes, each with the weight
    `exp(cosine / temperature)`. A class without a vote is never correct.

    Attributes:
        k: The number of neighbors.
        temperature: The temperature of the weights.
        leave_one_out: Whether the neighbors of an evaluation image are the other evaluation images instead of training
            images.
    """

    NAME: ClassVar[str] = "knn"
    METRICS: ClassVar[tuple[str, ...]] = ("top1", "top5", "cosine")

    k: int = 20
    temperature: float = 0.07
    leave_one_out: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise out_of_range("--k", self.k, ">= 1")
        # The largest weight, exp(1 / temperature), must be finite in float32.
        check_range("--temperature", self.temperature, 0.0125, 1e6)

    @property
    def uses_train_data(self) -> bool:
        """Whether the task reads training images."""
        return not self.leave_one_out

    def scores(self, outputs: FeatureOutputs, reference: FeatureOutputs | None) -> Scores:
        """Return top-1 and top-5 hits, and the cosines with the features of the dense model.

        Raises:
            InputError: There are fewer than `k` neighbors.
        """
        assert reference is not None
        images, bank = outputs.images, outputs.images if self.leave_one_out else outputs.train_images
        assert bank is not None
        count = len(bank.labels) - self.leave_one_out
        if self.k > count:
            raise out_of_range("--k", self.k, f"<= {count}, the number of possible neighbors")
        ranks = np.stack([
            knn_ranks(
                queries, images.labels, neighbors, bank.labels, images.classes, self.k, self.temperature,
                self.leave_one_out,
            )
            for queries, neighbors in zip(images.values, bank.values, strict=True)
        ])  # fmt: skip
        metrics = {"top1": (ranks < 1) & images.is_finite, "top5": (ranks < 5) & images.is_finite}
        return Scores({**metrics, "cosine": images.cosine(reference.images)}, images.nonfinite)


def knn_ranks(
    queries: np.ndarray,
    labels: np.ndarray,
    neighbors: np.ndarray,
    neighbor_labels: np.ndarray,
    classes: int,
    k: int,
    temperature: float,
    leave_one_out: bool = False,
) -> np.ndarray:
    """Return the rank of the label of each query among the votes of its nearest neighbors.

    Of equal cosines, the first neighbor votes, and of equal votes, the first class wins.

    Args:
        queries: `[images, D]` float32, of unit length.
        labels: `[images]` int32.
        neighbors: `[N, D]` float32, of unit length.
        neighbor_labels: `[N]` int32.
        classes: The number of classes.
        k: The number of neighbors that vote.
        temperature: The temperature of the votes.
        leave_one_out: Whether neighbor `i` is query `i`, which does not vote for itself.

    Returns:
        `[images]` int32; the largest integer for a label without a vote.
    """
    bank, bank_labels = jnp.asarray(neighbors), jnp.asarray(neighbor_labels)
    function = partial(
        _ranks, bank, bank_labels, classes=classes, k=k, temperature=temperature, leave_one_out=leave_one_out
    )
    return map_queries(function, queries, labels, len(neighbors))


@partial(jax.jit, static_argnames=("classes", "k", "leave_one_out"))
def _ranks(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    labels: Array,
    indices: Array,
    *,
    classes: int,
    k: int,
    temperature: float,
    leave_one_out: bool,
) -> Array:
    cosines = similarities(queries, bank)
    if leave_one_out:
        cosines = jnp.where(jnp.arange(len(bank))[None] == indices[:, None], -jnp.inf, cosines)
    values, nearest = jax.lax.top_k(cosines, k)
    rows = jnp.arange(len(queries))[:, None]
    votes = (
        jnp.zeros((len(queries), classes), jnp.float32)
        .at[rows, bank_labels[nearest]]
        .add(jnp.exp(values / temperature))
    )
    has_vote = jnp.take_along_axis(votes, labels[:, None], axis=-1)[:, 0] > 0
    return jnp.where(has_vote, label_rank(votes, labels), _NO_VOTE)

"""DiffRate: differentiable compression rate for efficient ViTs (Chen et al., ICCV 2023, arXiv 2305.17997).

Each block sorts its patch tokens by class attention, prunes the lowest ones, and merges the next lowest ones into the
most similar kept token, by the cosine of features. Features are merged by the plain mean; the size becomes
`s_m + sum_j s_j cos_j`. Later attention adds `log size`.

The paper learns the compression rates. Here the schedule sets the number of removed tokens per block, and `pruned` sets
how many of them are pruned. The official code has no license: nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tcvit_jax.errors import as_integer, invalid, out_of_range
from tcvit_jax.ops import plans
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import ranks
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import average_macs, best_share, require_match
from tcvit_jax.reducers.matches import FEATURES
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts
from tcvit_jax.reducers.scores import CLASS_ATTENTION
from tcvit_jax.tokens import Plan


@dataclass(frozen=True, repr=False)
class DiffRate(Reducer):
    """Pruning of the tokens with the lowest class attention, and merging of the next lowest.

    Attributes:
        pruned: How many of the removed tokens of a block are pruned instead of merged: a fraction of them, rounded
            down, or one number per block, at most the number that the schedule removes there.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"pruned": (0.0, 0.25, 0.75)}

    pruned: float | tuple[int, ...] = 0.5

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if isinstance(self.pruned, Sequence):
            counts = tuple(as_integer("pruned", count) for count in self.pruned)
            if any(count < 0 for count in counts):
                raise out_of_range("pruned", counts, ">= 0 in every block")
            object.__setattr__(self, "pruned", counts)
        elif not 0 <= self.pruned <= 1:
            raise out_of_range("pruned", self.pruned, "in [0, 1], or a list with one count per block")

    def count(self, block: int, removed: int) -> int:
        """Return how many of the `removed` tokens of a block are pruned.

        Args:
            block: Index of the block.
            removed: Number of tokens that the block removes.

        Raises:
            InputError: `pruned` has no count for the block, or one larger than `removed`.
        """
        if not isinstance(self.pruned, tuple):
            return int(self.pruned * removed)
        if block >= len(self.pruned) or self.pruned[block] > removed:
            raise out_of_range(
                "pruned",
                list(self.pruned),
                f"a list with a count <= {removed} for block {block}",
                f"the schedule removes {removed} tokens there",
            )
        return self.pruned[block]

    def _check_counts(self, removed: Sequence[int]) -> None:
        """Raise `InputError` unless `pruned` fits the numbers of removed tokens per block."""
        if isinstance(self.pruned, tuple) and len(self.pruned) > len(removed):
            raise invalid("pruned", f"expected at most {len(removed)} counts, one per block, got {len(self.pruned)}")
        for block, count in enumerate(removed):
            if count:
                self.count(block, count)

    def fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan that merges by the plain mean of features, and by sizes weighted with the cosine."""
        removed = inputs.removed.shape[1]
        merge_count = removed - self.count(inputs.tokens.block, removed)
        # The removed tokens with the highest scores are merged.
        is_merged = ranks(take_rows(inputs.score, inputs.removed)) < merge_count
        match = require_match(inputs)
        share = jnp.where(is_merged[:, None, :], best_share(match), 0)
        similarity = jnp.maximum(match.max(-1), 0)[:, None, :]
        plan = plans.average(inputs.kept, inputs.removed, share, jnp.ones_like(inputs.tokens.size))
        return plans.with_shares(plan, jax.lax.stop_gradient(share * similarity))

    @property
    def parts(self) -> Parts:
        """Class attention, cosine of features, pruning and merging."""
        return Parts(
            CLASS_ATTENTION, FEATURES, Fusion(self.fuse, "propagate", macs=average_macs, check=self._check_counts)
        )

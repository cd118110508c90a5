"""DiffRate: differentiable compression rate for efficient ViTs (Chen et al., ICCV 2023, arXiv 2305.17997).

Each block sorts its patch tokens by class attention, prunes the lowest ones, and merges the lowest of what is left into
the most similar kept token, by the cosine of features: the plain mean of features, and a size of
`s_m + sum_j s_j cos_j`. Later attention adds `log size`.

Rates are given here, and not searched for: the schedule says how many tokens leave each block, `pruned` how many of
them are pruned. The official code has no license: nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tcvit_jax.errors import InputError, as_integer
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
    """Prune the tail by class attention, merge what is before it.

    Attributes:
        pruned: how many of a block's removed tokens are pruned and not merged: a share of them, rounded down, or a
            number for every block (none of which may be more than the schedule removes there).
        proportional_attention, attention_keep: see `Reducer`.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"pruned": (0.0, 0.25, 0.75)}

    pruned: float | tuple[int, ...] = 0.5

    def __post_init__(self) -> None:
        """Refuse shares that are none, and negative numbers."""
        super().__post_init__()
        if isinstance(self.pruned, Sequence):
            counts = tuple(as_integer("pruned", count) for count in self.pruned)
            if any(count < 0 for count in counts):
                raise InputError(f"pruned={counts} holds a negative number: use 0 or more")
            object.__setattr__(self, "pruned", counts)
        elif not 0 <= self.pruned <= 1:
            raise InputError(f"pruned={self.pruned} is not a share between 0 and 1, nor a list with a number per block")

    def count(self, block: int, removed: int) -> int:
        """How many of `removed` tokens are pruned in a block."""
        if not isinstance(self.pruned, tuple):
            return int(self.pruned * removed)
        if block >= len(self.pruned) or self.pruned[block] > removed:
            raise InputError(
                f"pruned={list(self.pruned)} does not fit block {block}, where the schedule removes {removed} tokens"
            )
        return self.pruned[block]

    def _check_counts(self, removed: Sequence[int]) -> None:
        """A block has a number, and removes as many."""
        if isinstance(self.pruned, tuple) and len(self.pruned) > len(removed):
            raise InputError(f"pruned lists {len(self.pruned)} blocks and the model has {len(removed)}")
        for block, count in enumerate(removed):
            if count:
                self.count(block, count)

    def fuse(self, inputs: FusionInputs) -> Plan:
        """Shares of merged tokens by the mean, and by their cosine for sizes."""
        removed = inputs.removed.shape[1]
        merged = removed - self.count(inputs.tokens.block, removed)
        # The best of the removed ones merge.
        merges = ranks(take_rows(inputs.score, inputs.removed)) < merged
        match = require_match(inputs)
        share = best_share(match) * merges[:, None, :]
        alike = jnp.maximum(match.max(-1), 0)[:, None, :]
        weight = plans.average(inputs.kept, inputs.removed, share, jnp.ones_like(inputs.tokens.size))
        return plans.with_shares(weight, jax.lax.stop_gradient(share * alike))

    @property
    def parts(self) -> Parts:
        """Class attention, features, prune and merge."""
        return Parts(
            CLASS_ATTENTION, FEATURES, Fusion(self.fuse, "propagate", macs=average_macs, check=self._check_counts)
        )

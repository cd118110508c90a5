"""ToFu: token fusion, bridging the gap between pruning and merging (Kim et al., WACV 2024, arXiv 2312.01026).

Pairs are those of ToMe's bipartite matching. In early blocks, where a layer is far from linear, the removed token is
pruned: its partner stays as it is, and stands for both. In later ones the two merge by MLERP: the direction of their
mean, the length of the longest.

Written from the paper's description; no code was ported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import InputError
from tcvit_jax.ops import plans
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import averaging, best_share, matched, passing
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import Choice, Fusion, Parts, Site
from tcvit_jax.reducers.tome import BIPARTITE
from tcvit_jax.tokens import Plan


def _length(x: Float[Array, "B N D"]) -> Float[Array, "B N"]:
    """Return the Euclidean length of each row."""
    return cast(Array, jnp.linalg.norm(x, axis=-1))


def longest_mean(choice: Choice) -> Plan:
    """Fuse each removed token into its best match: the mean weighted by size, made as long as the longest of them."""
    tokens, share = choice.tokens, best_share(matched(choice))
    mean = plans.averaging(choice.kept, choice.removed, share, tokens.size)
    x = jax.lax.stop_gradient(tokens.patches).astype(jnp.float32)
    length = _length(x)
    merged = cast(Array, plans.mixed(mean, x))
    longest = jnp.maximum(
        take_rows(length, choice.kept), jnp.max(share * take_rows(length, choice.removed)[:, None, :], -1)
    )
    short = _length(merged)
    # Alone it stays as it is, to the bit.
    stretch = jnp.where((share.sum(-1) > 0) & (short > 0), longest / jnp.where(short > 0, short, 1), 1)
    return plans.scaled(mean, stretch)


def stretching(site: Site) -> int:
    """Multiply-adds of `longest_mean`: the mean is computed twice, once for its length."""
    return 2 * averaging(site) - passing(site)


MLERP = Fusion(longest_mean, "merged", macs=stretching)


@dataclass(frozen=True, repr=False)
class ToFu(Reducer):
    """Pruning early, merging late, along a bipartite matching.

    Attributes:
        prune_until: the share of the blocks, from the first on, that prune.
        proportional_attention, attention_keep: see `Reducer`.
    """

    TRIED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"prune_until": (0.0, 0.25, 0.75)}

    prune_until: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        if not 0 <= self.prune_until <= 1:
            raise InputError(f"prune_until={self.prune_until} is not between 0 (merge in all blocks) and 1 (in none)")

    def fuse(self, choice: Choice) -> Plan:
        """By the block."""
        if choice.tokens.block < self.prune_until * choice.tokens.depth:
            return plans.representing(choice.kept, choice.removed, best_share(matched(choice)))
        return longest_mean(choice)

    def _macs(self, site: Site) -> int:
        return passing(site) if site.block < self.prune_until * site.depth else stretching(site)

    @property
    def parts(self) -> Parts:
        """Halves, keys, and the two fusions."""
        return Parts(BIPARTITE, KEYS, Fusion(self.fuse, "merged", macs=self._macs))

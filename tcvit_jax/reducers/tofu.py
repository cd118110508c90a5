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
from tcvit_jax.reducers.fusions import average_macs, best_share, require_match, size_macs
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs, Parts
from tcvit_jax.reducers.tome import BIPARTITE
from tcvit_jax.tokens import Plan


def _length(x: Float[Array, "B N D"]) -> Float[Array, "B N"]:
    """Return the Euclidean length of each row."""
    return cast(Array, jnp.linalg.norm(x, axis=-1))


def longest_mean(inputs: FusionInputs) -> Plan:
    """Fuse each removed token into its best match: the mean weighted by size, made as long as the longest of them."""
    tokens, share = inputs.tokens, best_share(require_match(inputs))
    mean = plans.average(inputs.kept, inputs.removed, share, tokens.size)
    x = jax.lax.stop_gradient(tokens.patches).astype(jnp.float32)
    length = _length(x)
    merged = cast(Array, plans.combine(mean, x))
    longest = jnp.maximum(
        take_rows(length, inputs.kept), jnp.max(share * take_rows(length, inputs.removed)[:, None, :], -1)
    )
    short = _length(merged)
    # Alone it stays as it is, to the bit.
    stretch = jnp.where((share.sum(-1) > 0) & (short > 0), longest / jnp.where(short > 0, short, 1), 1)
    return plans.scale_features(mean, stretch)


def mlerp_macs(context: BlockContext) -> int:
    """Multiply-adds of `longest_mean`: the mean is computed twice, once for its length."""
    return 2 * average_macs(context) - size_macs(context)


MLERP = Fusion(longest_mean, "merge", macs=mlerp_macs)


@dataclass(frozen=True, repr=False)
class ToFu(Reducer):
    """Pruning early, merging late, along a bipartite matching.

    Attributes:
        prune_until: the share of the blocks, from the first on, that prune.
        proportional_attention, attention_keep: see `Reducer`.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"prune_until": (0.0, 0.25, 0.75)}

    prune_until: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        if not 0 <= self.prune_until <= 1:
            raise InputError(f"prune_until={self.prune_until} is not between 0 (merge in all blocks) and 1 (in none)")

    def fuse(self, inputs: FusionInputs) -> Plan:
        """By the block."""
        if inputs.tokens.block < self.prune_until * inputs.tokens.depth:
            return plans.represent(inputs.kept, inputs.removed, best_share(require_match(inputs)))
        return longest_mean(inputs)

    def _macs(self, context: BlockContext) -> int:
        return size_macs(context) if context.block < self.prune_until * context.depth else mlerp_macs(context)

    @property
    def parts(self) -> Parts:
        """Halves, keys, and the two fusions."""
        return Parts(BIPARTITE, KEYS, Fusion(self.fuse, "merge", macs=self._macs))

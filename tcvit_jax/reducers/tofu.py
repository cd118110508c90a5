"""ToFu: token fusion between pruning and merging (Kim et al., WACV 2024, arXiv 2312.01026).

Pairs are those of ToMe's bipartite matching. In early blocks, which are far from linear, the removed token is pruned:
its partner keeps its features and represents both. In later blocks the two merge by MLERP: the result has the direction
of their mean and the norm of the longest of them.

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

from tcvit_jax.errors import check_range
from tcvit_jax.ops import plans
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import average_macs, best_share, require_match, size_macs
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs, Parts
from tcvit_jax.reducers.tome import BIPARTITE
from tcvit_jax.tokens import Plan


def _norm(x: Float[Array, "B N D"]) -> Float[Array, "B N"]:
    """Return the Euclidean norm of each row."""
    return cast(Array, jnp.linalg.norm(x, axis=-1))


def mlerp(inputs: FusionInputs) -> Plan:
    """Return the plan that merges each removed token into its best match by MLERP.

    The result is the mean weighted by size, rescaled to the largest norm of the merged tokens.
    """
    tokens, share = inputs.tokens, best_share(require_match(inputs))
    mean = plans.average(inputs.kept, inputs.removed, share, tokens.size)
    x = jax.lax.stop_gradient(tokens.patches).astype(jnp.float32)
    norm = _norm(x)
    merged = cast(Array, plans.combine(mean, x))
    longest = jnp.maximum(
        take_rows(norm, inputs.kept), jnp.max(share * take_rows(norm, inputs.removed)[:, None, :], -1)
    )
    mean_norm = _norm(merged)
    # The factor is exactly 1 for a kept token that receives nothing, so that it stays bit-identical.
    is_scaled = (share.sum(-1) > 0) & (mean_norm > 0)
    factor = jnp.where(is_scaled, longest / jnp.where(mean_norm > 0, mean_norm, 1), 1)
    return plans.scale_features(mean, factor)


def mlerp_macs(context: BlockContext) -> int:
    """Return the multiply-adds of `mlerp`, which computes the mean a second time for its norm."""
    return 2 * average_macs(context) - size_macs(context)


MLERP = Fusion(mlerp, "merge", macs=mlerp_macs)


@dataclass(frozen=True, repr=False)
class ToFu(Reducer):
    """Bipartite matching with pruning in early blocks and merging in late blocks.

    Attributes:
        prune_until: Fraction of the blocks, in [0, 1], starting with the first, that prune instead of merging.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"prune_until": (0.0, 0.25, 0.75)}

    prune_until: float = 0.5

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_range("prune_until", self.prune_until, 0, 1, hint="0 merges in all blocks, 1 in none")

    def fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan of the block: pruning in early blocks, MLERP in late blocks."""
        if inputs.tokens.block < self.prune_until * inputs.tokens.depth:
            return plans.represent(inputs.kept, inputs.removed, best_share(require_match(inputs)))
        return mlerp(inputs)

    def _macs(self, context: BlockContext) -> int:
        return size_macs(context) if context.block < self.prune_until * context.depth else mlerp_macs(context)

    @property
    def parts(self) -> Parts:
        """Bipartite score, cosine of keys, pruning or MLERP."""
        return Parts(BIPARTITE, KEYS, Fusion(self.fuse, "merge", macs=self._macs))

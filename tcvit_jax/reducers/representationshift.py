"""Representation shift (ICCV 2025, arXiv 2508.00367).

Let `x'` be the tokens after attention. The score of a token is the norm of the update that the MLP of the block would
add to it, `||MLP(LN(x'))||_2`: tokens that the MLP would not change leave. The score needs no attention map and no
class token, but the MLP of a removed token is computed, once.

The removed tokens are dropped, or merge into the kept token with the most similar features (cosine), weighted by size.
If they are dropped, the MLP of the kept tokens is not computed again. As a block saves no MLP, a few blocks that remove
many tokens cost less than many that remove a few, and the default schedule is that of EViT.

Written from the formula; no code was ported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import unknown
from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP, HARD
from tcvit_jax.reducers.matches import FEATURES
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Tokens

_FUSIONS = {"drop": DROP, "hard": HARD}


def _rank(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    assert signals.mlp_norm is not None
    return signals.mlp_norm[:, tokens.prefix :]


SHIFT = Score(_rank, ("mlp_norm",))


@dataclass(frozen=True, repr=False)
class RepresentationShift(Reducer):
    """Pruning or merging of the tokens that the MLP changes least.

    Attributes:
        fuse: `"drop"`, or `"hard"`: into the kept token with the most similar features, weighted by size.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fuse": ("hard",)}

    fuse: str = "drop"

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if self.fuse not in _FUSIONS:
            raise unknown("fuse", self.fuse, _FUSIONS)

    @property
    def parts(self) -> Parts:
        """The norm of the MLP's update; no match, or the cosine of features; no fusion, or a mean weighted by size."""
        fusion = _FUSIONS[self.fuse]
        return Parts(SHIFT, FEATURES if fusion.needs_match else None, fusion)

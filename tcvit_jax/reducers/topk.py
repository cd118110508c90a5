"""Top-K: pruning by class attention (Haurum et al., 2023, arXiv 2308.04657).

Keeps the patch tokens with the highest class attention and drops the others. The score is that of EViT, without a fused
token.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts
from tcvit_jax.reducers.scores import CLASS_ATTENTION


@dataclass(frozen=True, repr=False)
class TopK(Reducer):
    """Top-k pruning by class attention.

    Attributes:
        proportional_attention: See `Reducer`. Sizes stay 1.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Class attention, no match, no fusion."""
        return Parts(CLASS_ATTENTION, None, DROP)

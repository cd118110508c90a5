"""Top-K: keep the patch tokens that the class token attends to most, drop the others (Haurum et al., 2023, 2308.04657).

The plainest pruning by attention: the score is that of EViT, and nothing is fused.

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
    """The highest class attention stays.

    Attributes:
        proportional_attention, attention_keep: see `Reducer`; sizes stay 1.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Class attention, and nothing else."""
        return Parts(CLASS_ATTENTION, None, DROP)

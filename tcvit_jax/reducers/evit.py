"""EViT: expediting ViTs via token reorganization (Liang et al., ICLR 2022, arXiv 2202.07800).

Let `a_j` be the attention of the class token to patch token `j`, averaged over heads. The `k = ceil(rate * n)` patch
tokens with the highest `a_j` are kept. The others are fused into one extra token `x_f = sum_j a_j x_j`, which is not
divided by the sum of their attention and is a regular patch token in later blocks. The paper reduces at blocks 4, 7 and
10 of 12 (counted from 1).

Written from the formula; the official code is Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import CLASS_TOKEN, DROP
from tcvit_jax.reducers.parts import Parts
from tcvit_jax.reducers.scores import CLASS_ATTENTION


@dataclass(frozen=True, repr=False)
class EViT(Reducer):
    """Top-k selection by class attention; the removed tokens are fused into one.

    Attributes:
        fuse: Whether to fuse the removed tokens into one extra token. Otherwise they are dropped.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fuse": (False,)}

    proportional_attention: bool = False
    fuse: bool = True

    @property
    def parts(self) -> Parts:
        """Class attention, no match, and one fused token or none."""
        return Parts(CLASS_ATTENTION, None, CLASS_TOKEN if self.fuse else DROP)

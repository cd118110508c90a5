"""EViT: expediting ViTs via token reorganization (Liang et al., ICLR 2022, arXiv 2202.07800).

With `a_j` the class token's attention to each patch token, the mean over heads, keep the highest `k = ceil(rate * n)`;
the others become one more token, `x_f = sum_j a_j x_j`, not divided by the sum of their attention. From then on it is a
patch token like the others. At blocks 4, 7 and 10 of 12.

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
    """Keep what the class token attends to; fuse the rest into one token.

    Attributes:
        fuse: whether the others become a token, or are dropped.
        proportional_attention, attention_keep: see `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fuse": (False,)}

    proportional_attention: bool = False
    fuse: bool = True

    @property
    def parts(self) -> Parts:
        """Class attention; one token, or none."""
        return Parts(CLASS_ATTENTION, None, CLASS_TOKEN if self.fuse else DROP)

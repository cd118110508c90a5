"""DPC-KNN: density peaks by nearest neighbors (Du et al., 2016), as TCFormer condenses tokens with it (Zeng et al.,
CVPR 2022, arXiv 2204.08680; Haurum et al., 2023).

With `D` the Euclidean distances of features over `sqrt(width)`, a token's density is
`rho_i = exp(-mean of D_ij^2 over its k nearest, itself among them)`, its separation `delta_i` the distance to the
nearest token of higher density, and the largest distance of all for the densest. Centres are the `K` highest
`rho_i delta_i`; every other token joins the nearest center, and a cluster becomes its plain mean.

The noise that reference code adds to break ties is left out: ties go to the lower index.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import InputError
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.ranking import largest_mask
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import UNWEIGHTED
from tcvit_jax.reducers.matches import NEAREST
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Tokens


@dataclass(frozen=True, repr=False)
class DPCKNN(Reducer):
    """Clusters around density peaks.

    Attributes:
        neighbors: k, the token itself among them; all, where there are fewer.
        proportional_attention, attention_keep: see `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"neighbors": (3, 10)}

    proportional_attention: bool = False
    neighbors: int = 5

    def __post_init__(self) -> None:
        """Refuse a density of nothing."""
        super().__post_init__()
        if self.neighbors < 1:
            raise InputError(f"neighbors={self.neighbors} leaves a token without itself: use 5")

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """`rho * delta`, `[B, N]`."""
        x = jax.lax.stop_gradient(tokens.patches)
        distance = matching.pairwise_distances(x) / x.shape[-1] ** 0.5
        count = min(self.neighbors, x.shape[1])
        nearest = largest_mask(-distance, count)
        density = jnp.exp(-jnp.where(nearest, distance**2, 0).sum(-1) / count)
        denser = density[:, None, :] > density[:, :, None]
        farthest = distance.max((1, 2), keepdims=True)
        return density * jnp.where(denser, distance, farthest).min(-1)

    @property
    def parts(self) -> Parts:
        """Density peaks, distances, the plain mean."""
        return Parts(Score(self.rank, macs=lambda context: context.patches**2 * context.width), NEAREST, UNWEIGHTED)

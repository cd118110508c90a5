"""DPC-KNN: density peak clustering with nearest neighbors.

Du et al., 2016; used for tokens by TCFormer (Zeng et al., CVPR 2022, arXiv 2204.08680) and Haurum et al., 2023.

Let `D` be the Euclidean distances of features divided by `sqrt(width)`. The density of a token is
`rho_i = exp(-mean_j D_ij^2)` over its `k` nearest tokens, including itself. Its separation `delta_i` is the distance to
the nearest token of higher density; for the densest token it is the largest of all distances. The `K` tokens with the
highest `rho_i delta_i` are the cluster centers. Every other token joins the nearest center, and each cluster is
replaced by its plain mean.

Reference code adds noise to the densities to break ties. Here ties go to the lower index.

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

from tcvit_jax.errors import out_of_range
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
    """Merging of clusters around density peaks.

    Attributes:
        neighbors: Number `k` of nearest tokens, including the token itself, limited to the number of tokens.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"neighbors": (3, 10)}

    proportional_attention: bool = False
    neighbors: int = 5

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if self.neighbors < 1:
            raise out_of_range("neighbors", self.neighbors, ">= 1")

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return `rho * delta`, `[B, N]`."""
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
        """Density peaks, feature distance, plain mean."""
        return Parts(Score(self.rank, macs=lambda context: context.patches**2 * context.width), NEAREST, UNWEIGHTED)

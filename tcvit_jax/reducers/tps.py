"""TPS: joint token pruning and squeezing (Wei et al., CVPR 2023, arXiv 2304.10716).

Any score says what stays. Each removed token `j` goes to its most similar kept one, by the cosine `c_j` of features,
and is squeezed into it: `y = (e x + sum_j e^{c_j} x_j) / (e + sum_j e^{c_j})`, a softmax in which the host counts as
a cosine of 1. The score here is class attention (the paper's eTPS).

Written from the formula; the official code is Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from tcvit_jax.ops import plans
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import average_macs, best_share, require_match
from tcvit_jax.reducers.matches import FEATURES
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts
from tcvit_jax.reducers.scores import CLASS_ATTENTION
from tcvit_jax.tokens import Plan


def squeeze(inputs: FusionInputs) -> Plan:
    """Into the best match, with weight `e^(match - 1)` beside the host's 1."""
    match = require_match(inputs)
    # Only the best one counts, and the mask of a bipartite score would be -inf times 0.
    weight = jnp.exp(match.max(-1) - 1)[:, None, :]
    return plans.average(
        inputs.kept, inputs.removed, best_share(match), jnp.ones_like(inputs.tokens.size), discount=weight
    )


SQUEEZE = Fusion(squeeze, "merge", macs=average_macs)


@dataclass(frozen=True, repr=False)
class TPS(Reducer):
    """Squeeze what class attention leaves out into its most similar kept token.

    Attributes:
        proportional_attention, attention_keep: see `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Class attention, features, a softmax of cosines."""
        return Parts(CLASS_ATTENTION, FEATURES, SQUEEZE)

"""TPS: joint token pruning and squeezing (Wei et al., CVPR 2023, arXiv 2304.10716).

Any score can select the kept tokens; here it is class attention (eTPS in the paper). Each removed token `j` is assigned
to its most similar kept token, by the cosine `c_j` of features, and squeezed into it:
`y = (e x + sum_j e^{c_j} x_j) / (e + sum_j e^{c_j})`. This is a softmax over cosines, in which the kept token `x` has a
cosine of 1.

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
    """Return the plan that fuses each removed token into its best match.

    The weight of a removed token is `e^(match - 1)`, that of the kept token 1.
    """
    match = require_match(inputs)
    # Use the weight of the best match for all rows: the mask of a bipartite score would give -inf times 0.
    weight = jnp.exp(match.max(-1) - 1)[:, None, :]
    return plans.average(
        inputs.kept, inputs.removed, best_share(match), jnp.ones_like(inputs.tokens.size), discount=weight
    )


SQUEEZE = Fusion(squeeze, "merge", macs=average_macs)


@dataclass(frozen=True, repr=False)
class TPS(Reducer):
    """Pruning by class attention, with removed tokens squeezed into their most similar kept tokens.

    Attributes:
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Class attention, cosine of features, softmax over cosines."""
        return Parts(CLASS_ATTENTION, FEATURES, SQUEEZE)

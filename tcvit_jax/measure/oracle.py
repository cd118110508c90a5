"""The oracle slice: a lower limit on the run time of token reduction, whose selection costs nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array

from tcvit_jax.models import ViT, condense
from tcvit_jax.models.create import check_model
from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def _index_score(tokens: Tokens, signals: Signals, keep: int) -> Array:
    """Return a score that prefers the first tokens."""
    return jnp.broadcast_to(-jnp.arange(tokens.origin.shape[1], dtype=jnp.float32), tokens.origin.shape)


@dataclass(frozen=True, repr=False)
class Oracle(Reducer):
    """The oracle slice: removes the last tokens by a static slice, without a score or a gather.

    It is a baseline for run times, not for accuracy: the additional time of another reducer with the same schedule is
    the cost of its selection and fusion.

    Attributes:
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """The score and fusion that `reduce` implements by a slice."""
        return Parts(Score(_index_score), None, DROP)

    def reduce(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tokens, Plan]:
        """Return the first `keep` patch tokens, and the equivalent plan."""
        plan = self.plan(tokens, signals, keep)
        truncated = replace(
            tokens,
            x=tokens.x[:, : tokens.prefix + keep],
            size=tokens.size[:, :keep],
            origin=tokens.origin[:, :keep],
            slots=jnp.where(tokens.slots < keep, tokens.slots, -1),
        )
        return truncated, plan


def oracle(model: ViT) -> ViT:
    """Replace the reducer of a model by the oracle slice, with the same number of tokens in each block.

    Args:
        model: The model, with or without a reducer.

    Returns:
        The model with the oracle slice.

    Raises:
        InputError: `model` is not a model of `create_model`.
    """
    check_model(model)
    tokens = model.cost().tokens
    return condense(model, Oracle(), [before - after for before, after in itertools.pairwise(tokens)])

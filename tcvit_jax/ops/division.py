"""Division that is defined for a divisor of 0."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def ratio(x: Float[Array, "..."], by: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return `x / by`, and 0 where `by` is 0 or negative."""
    return jnp.where(by > 0, x / jnp.where(by > 0, by, 1), 0)


def scale_to_one(x: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """Return non-negative values scaled to sum to 1 over the last axis; 0 where all are 0."""
    return ratio(x, x.sum(-1, keepdims=True))

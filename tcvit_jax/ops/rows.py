"""The rows of a batch: random numbers by row, and neighbours. Neither depends on which device holds a row.

A training step cuts its batch over devices and into micro-batches, and says so with `numbered`; elsewhere a batch is
the whole of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax import Array

_numbered: ContextVar[tuple[Array, int] | None] = ContextVar("rows", default=None)


@contextmanager
def numbered(numbers: Array, total: int) -> Iterator[None]:
    """Inside, the rows of a batch are those `numbers [B]` int32 of a global batch of `total` rows."""
    token = _numbered.set((numbers, total))
    try:
        yield
    finally:
        _numbered.reset(token)


def neighbour(x: Array) -> Array:
    """`x [B, ...]` with every pair of rows, 0 and 1, 2 and 3, exchanged: what a row is mixed with.

    Neighbours lie on one device, however many there are; since rows come in random order, it is a random pairing.
    """
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def keys(key: Array, rows: int) -> Array:
    """A key for each of the `rows` of this batch, `[rows]`, by its number in the global batch."""
    numbers, _ = _numbers(rows)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)


def bernoulli(key: Array, p: float, rows: int) -> Array:
    """`[rows]` bool, True with probability `p` each."""
    numbers, total = _numbers(rows)
    # One draw for the global batch is a few numbers, and cheaper than a key for each row.
    drawn = jax.random.bernoulli(key, p, (total,))
    return drawn if total == rows else drawn[numbers]


def _numbers(rows: int) -> tuple[Array, int]:
    found = _numbered.get()
    if found is None:
        return jnp.arange(rows), rows
    if found[0].shape != (rows,):
        raise ValueError(f"{rows} rows, where {found[0].shape[0]} are numbered")
    return found

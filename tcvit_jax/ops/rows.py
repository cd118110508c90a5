"""Rows of a batch: random numbers by row, and pairing of rows, both independent of the device that holds a row.

A training step splits its batch over devices and into micro-batches and passes `Rows` along. Without `Rows`, a batch is
the full global batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Key, Shaped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The rows of the global batch that a batch holds.

    Attributes:
        numbers: `[B]` int32, the index of each row in the global batch.
        total: The number of rows of the global batch; static.
    """

    numbers: Array
    total: int = field(metadata={"static": True})

    @classmethod
    def resolve(cls, rows: Rows | None, batch: int) -> Rows:
        """Return `rows`, or all rows of a global batch if `rows` is None.

        Args:
            rows: The rows of the batch, or None.
            batch: The number of rows of the batch.

        Raises:
            ValueError: `rows` does not have `batch` rows.
        """
        if rows is None:
            return cls(jnp.arange(batch, dtype=jnp.int32), batch)
        if rows.numbers.shape != (batch,):
            raise ValueError(f"rows: expected {batch} row numbers, got {rows.numbers.shape[0]}")
        return rows

    def keys(self, key: Key[Array, ""]) -> Key[Array, " B"]:
        """Return a key for each row, derived from its index in the global batch.

        Args:
            key: The key of the global batch.

        Returns:
            `[B]` keys.
        """
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, self.numbers)

    def bernoulli(self, key: Key[Array, ""], p: float) -> Bool[Array, " B"]:
        """Draw a Boolean for each row.

        Args:
            key: The key of the global batch.
            p: The probability of True.

        Returns:
            `[B]` bool.
        """
        # Drawing for the global batch takes a few numbers and is cheaper than a key for each row.
        draws = jax.random.bernoulli(key, np.float32(p), (self.total,))
        return draws if self.total == self.numbers.shape[0] else draws[self.numbers]


def swap_pairs(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Swap the rows of each pair (0 and 1, 2 and 3, ...): the result holds the mixing partner of each row.

    The partners are on the same device for any number of devices. Rows are in random order, so the pairing is random.
    """
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)

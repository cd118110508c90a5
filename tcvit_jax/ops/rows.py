"""The rows of a batch: random numbers by row, and pairs. Neither depends on which device holds a row.

A training step splits its batch over devices and into micro-batches, and passes `Rows` on; without them, a batch is the
whole global batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Key, Shaped


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Which rows of the global batch a batch holds.

    Attributes:
        numbers: `[B]` int32, the number of each row in the global batch.
        total: the number of rows of the global batch; static.
    """

    numbers: Array
    total: int = field(metadata={"static": True})

    @classmethod
    def resolve(cls, rows: Rows | None, batch: int) -> Rows:
        """Return `rows`, or those of a whole global batch where they are None.

        Args:
            rows: of the batch, or None.
            batch: the number of rows that the batch has.

        Raises:
            ValueError: `rows` of another number.
        """
        if rows is None:
            return cls(jnp.arange(batch), batch)
        if rows.numbers.shape != (batch,):
            raise ValueError(f"{batch} rows, where {rows.numbers.shape[0]} are numbered")
        return rows

    def keys(self, key: Key[Array, ""]) -> Key[Array, " B"]:
        """Return a key for each row, by its number in the global batch."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, self.numbers)

    def bernoulli(self, key: Key[Array, ""], p: float) -> Bool[Array, " B"]:
        """Draw a bool for each row, True with probability `p`."""
        # One draw for the global batch is a few numbers, and cheaper than a key for each row.
        drawn = jax.random.bernoulli(key, p, (self.total,))
        return drawn if self.total == self.numbers.shape[0] else drawn[self.numbers]


def swap_pairs(x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Exchange the rows of every pair, 0 and 1, 2 and 3: each row's partner, which it is mixed with.

    Partners lie on one device, however many there are; since rows come in random order, it is a random pairing.
    """
    return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)

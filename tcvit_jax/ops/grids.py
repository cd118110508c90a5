"""Chains of grids that lose one row or column at a time, and merging of neighbors within the lines of a grid."""

from functools import cache

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int32, Shaped

from tcvit_jax.ops.gather import one_hot_rows, take_rows
from tcvit_jax.ops.matching import normalize_rows
from tcvit_jax.ops.ranking import split_by_score

Grid = tuple[int, int]


@cache
def grid_chain(grid: Grid) -> tuple[Grid, ...]:
    """Return the grids from `grid` to `(1, 1)`, each with one column or row less than the one before.

    The side that has kept the larger fraction of its length loses a line next, the columns first: a square grid loses
    columns and rows by turns. Each grid has another number of cells.

    Args:
        grid: `(height, width)`, both at least 1.
    """
    height, width = grid
    chain = [grid]
    while max(chain[-1]) > 1:
        rows, columns = chain[-1]
        loses_column = rows == 1 or (columns > 1 and columns * height >= rows * width)
        chain.append((rows, columns - 1) if loses_column else (rows - 1, columns))
    return tuple(chain)


def grid_of(grid: Grid, cells: int) -> Grid | None:
    """Return the grid of `grid_chain(grid)` with this number of cells, or None."""
    return next((other for other in grid_chain(grid) if other[0] * other[1] == cells), None)


def lower_to_grid(grid: Grid, cells: int, count: int) -> int:
    """Return the largest number of cells, at most `count`, whose removal leaves a grid of the chain.

    At most half of the rows and half of the columns are removed.

    Args:
        grid: `(height, width)` of the first grid of the chain.
        cells: Number of cells of the current grid, which must be in the chain.
        count: Number of cells to remove.
    """
    current = grid_of(grid, cells)
    assert current is not None
    return max(
        cells - rows * columns
        for rows, columns in grid_chain(grid)
        if max(cells - count, 0) <= rows * columns <= cells
        and rows >= current[0] - current[0] // 2
        and columns >= current[1] - current[1] // 2
    )


def larger_magnitude(x: Float[Array, "*shape"], other: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the entry of larger magnitude of each pair; `x` if both are equal."""
    return jnp.where(jnp.abs(other) > jnp.abs(x), other, x)


def merge_neighbors(
    values: Float[Array, "B L W D"], metric: Float[Array, "B L W d"], remove: int
) -> tuple[Float[Array, "B L K D"], Int32[Array, "B L K"], Int32[Array, "B L W"]]:
    """Merge the `remove` most similar cells of each line into one of their neighbors.

    Cells of odd position are candidates. The score of a candidate is the larger cosine with its left or right neighbor.
    In each line, the candidates of highest score leave into that neighbor: the left one, and the lower position, if two
    are equal. The neighbor takes the value of larger magnitude in every channel, first from its left and then from its
    right.

    Args:
        values: `[B, L, W, D]` values of the cells, with `L` lines of `W` cells.
        metric: `[B, L, W, d]` vectors that are compared.
        remove: Number of cells to remove from each line, at most `W // 2`; static.

    Returns:
        The values of the remaining cells, `[B, L, W - remove, D]`; their positions, `[B, L, W - remove]`, ascending;
        and for every cell the position that it moves to, `[B, L, W]`: that of itself unless it is removed.
    """
    batch, lines, length = metric.shape[:3]
    position = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, lines, length))
    if remove == 0:
        return values, position, position
    unit = normalize_rows(jax.lax.stop_gradient(metric))
    pairs = (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1)
    left = jnp.pad(pairs, ((0, 0), (0, 0), (1, 0)), constant_values=-jnp.inf)
    right = jnp.pad(pairs, ((0, 0), (0, 0), (0, 1)), constant_values=-jnp.inf)
    score = jnp.where(position % 2 == 1, -jnp.maximum(left, right), jnp.inf)
    kept, removed = split_by_score(score.reshape(batch * lines, length), length - remove)
    is_removed = one_hot_rows(removed, length, bool).any(1).reshape(batch, lines, length)
    goes_left = left >= right
    target = jnp.where(is_removed, jnp.where(goes_left, position - 1, position + 1), position)

    def receive(values: Float[Array, "B L W D"], shift: int, is_sent: Bool[Array, "B L W"]) -> Float[Array, "B L W D"]:
        # The first and the last cell receive nothing from the cells that `roll` brings from the other end: position 0
        # is no candidate, and the last cell never goes right.
        sent, mask = jnp.roll(values, shift, 2), jnp.roll(is_sent, shift, 2)
        return jnp.where(mask[..., None], larger_magnitude(values, sent), values)

    values = receive(receive(values, 1, is_removed & ~goes_left), -1, is_removed & goes_left)
    positions = kept.reshape(batch, lines, length - remove)
    return take_cells(values, positions), positions, target


def take_cells(cells: Shaped[Array, "B L W *rest"], positions: Int32[Array, "B L K"]) -> Shaped[Array, "B L K *rest"]:
    """Return `out[b, l, k] = cells[b, l, positions[b, l, k]]`."""
    batch, lines, count = positions.shape
    rows = take_rows(cells.reshape(batch * lines, *cells.shape[2:]), positions.reshape(batch * lines, count))
    return rows.reshape(*positions.shape, *cells.shape[3:])

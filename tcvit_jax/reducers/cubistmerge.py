"""CubistMerge: merging that leaves a rectangular grid of tokens (arXiv 2509.21764).

The patch tokens form a grid of `H` rows and `W` columns. In each row, the tokens of every second column are candidates.
The score of a candidate is the larger cosine with its left or right neighbor, and the `r_w` candidates of highest score
leave into that neighbor. It takes in each channel the value of larger magnitude. Then the same is done in the columns
with `r_h`. The result is a grid of `H - r_h` rows and `W - r_w` columns.

A number of removals determines the grid: grids lose columns and rows by turns (`ops.grids.grid_chain`), and the second,
fourth, ... column or row has the candidates. At most half of the rows and columns leave in one block. The paper's
formula does not say which vectors are compared: features are the default, and keys a choice. In the columns, a fused
token has its fused features, but the key of the token that received the others.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int32

from tcvit_jax.errors import out_of_range, requires, unknown
from tcvit_jax.ops import grids, matching, plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import magnitude_macs
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts, Score
from tcvit_jax.tokens import Plan, Tokens

METRICS = ("features", "keys")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GridState:
    """The places of the patch tokens in their grid.

    Attributes:
        cell: `[B, N]` int32, the cell of each patch token in the current grid, in raster order.
        grid: `(height, width)` of the grid of the embedded patches; static.
    """

    cell: Int32[Array, "B N"]
    grid: tuple[int, int] = field(metadata={"static": True})


class Merge(NamedTuple):
    """The result of both steps for the `N` patch tokens before them.

    Attributes:
        target: `[B, N]` int32, the row of the token that each token becomes a part of: its own unless it is removed.
        cell: `[B, N]` int32, the cell of each remaining token in the new grid; 0 for removed tokens.
        values: `[B, S, D]`, the features of the new grid in raster order.
    """

    target: Int32[Array, "B N"]
    cell: Int32[Array, "B N"]
    values: Float[Array, "B S D"]


def survivor_grid(tokens: Tokens) -> Int32[Array, "B height width"]:
    """Return the rows of the patch tokens in the raster order of their grid, `[B, height, width]` int32.

    Survivors are in the order of their original patches, which is not the raster order of the grid that they form.

    Args:
        tokens: Tokens of a model with this method, such as those of `model.apply(..., method="outputs", patches=True)`.

    Raises:
        InputError: The tokens are not those of a model with this method.
    """
    state: object = cast("tuple[object, ...]", tokens.state)[0] if isinstance(tokens.state, tuple) else None
    if not isinstance(state, GridState):
        raise requires("survivor_grid", "tokens of a model with reducer=tc.CubistMerge()")
    height, width = _grid_of(state, tokens.origin.shape[1])
    return _rows_of_cells(state.cell).reshape(state.cell.shape[0], height, width)


def _rows_of_cells(cell: Int32[Array, "B N"]) -> Int32[Array, "B N"]:
    """Return the row of the token in each cell, `[B, N]`."""
    return jnp.argsort(cell, axis=-1).astype(jnp.int32)


def _grid_of(state: GridState, count: int) -> tuple[int, int]:
    grid = grids.grid_of(state.grid, count)
    if grid is None:
        sizes = sorted(rows * columns for rows, columns in grids.grid_chain(state.grid))
        raise out_of_range("keep", count, f"one of {', '.join(map(str, sizes))}", "the tokens form a rectangle")
    return grid


def _set_rows(x: Int32[Array, "B N"], index: Int32[Array, "B K"], value: Int32[Array, "B K"]) -> Int32[Array, "B N"]:
    """Return `x` with `x[b, index[b, k]] = value[b, k]`."""

    def set_row(x: Int32[Array, " N"], index: Int32[Array, " K"], value: Int32[Array, " K"]) -> Int32[Array, " N"]:
        return x.at[index].set(value)

    return jax.vmap(set_row)(x, index, value)


def _prepare(tokens: Tokens, grid: tuple[int, int]) -> GridState:
    return GridState(tokens.origin, grid)


def _lower_count(patches: int, count: int, grid: tuple[int, int]) -> int:
    return grids.lower_to_grid(grid, patches, count)


@dataclass(frozen=True, repr=False)
class CubistMerge(Reducer):
    """Merging of neighbors in rows and columns, which leaves a rectangular grid.

    Attributes:
        metric: What is compared: `"features"`, or `"keys"` averaged over heads.
        proportional_attention: See `Reducer`. Off by default: a fused token is not a mean, in which each patch counts
            once, but takes each channel from one of its patches.
        attention_keep: See `Reducer`.
    """

    # Even removal would leave too few rows and columns to the last blocks.
    DEFAULT_SCHEDULE: ClassVar[str] = "keep_rate"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"metric": ("keys",), "proportional_attention": (True,)}

    proportional_attention: bool = False
    metric: str = "features"

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)

    def merge(self, tokens: Tokens, signals: Signals, keep: int) -> Merge:
        """Return the result of both steps.

        Args:
            tokens: Tokens whose state is a `GridState`.
            signals: Attention statistics of the block.
            keep: Number of tokens that remain, that of a grid of the chain; static.

        Raises:
            InputError: `keep` is not the number of cells of a grid of the chain.
        """
        state: GridState = tokens.state
        count = tokens.origin.shape[1]
        (height, width), (new_height, new_width) = _grid_of(state, count), _grid_of(state, keep)
        row_of_cell, batch = _rows_of_cells(state.cell), tokens.origin.shape[0]
        index = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), tokens.origin.shape)

        def on_grid(x: Float[Array, "B N D"]) -> Float[Array, "B height width D"]:
            return take_rows(x, row_of_cell).reshape(batch, height, width, x.shape[2])

        values = on_grid(tokens.patches)
        keys = on_grid(matching.patch_keys(tokens, signals)) if self.metric == "keys" else None
        rows, target = row_of_cell.reshape(batch, height, width), index
        for remove in (width - new_width, height - new_height):
            values, positions, moves = grids.merge_neighbors(values, values if keys is None else keys, remove)
            moved = grids.take_cells(rows, moves)
            step = _set_rows(index, *(x.reshape(batch, x.shape[1] * x.shape[2]) for x in (rows, moved)))
            # A token moves on with its target if that target is removed in the columns.
            target = take_rows(step, target)
            # The columns become the lines of the second step.
            values, rows = jnp.swapaxes(values, 1, 2), jnp.swapaxes(grids.take_cells(rows, positions), 1, 2)
            keys = None if keys is None else jnp.swapaxes(grids.take_cells(keys, positions), 1, 2)
        cell = _set_rows(jnp.zeros_like(index), rows.reshape(batch, keep), index[:, :keep])
        return Merge(target, cell, values.reshape(batch, keep, values.shape[3]))

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return 1 for kept tokens and `-1 - target` for removed tokens, `[B, N]`; `target` is a row."""
        return _encode(self.merge(tokens, signals, keep).target)

    def fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan by which kept tokens take the values of largest magnitude of the tokens of `rank`."""
        share = _shares(inputs.score, inputs.kept, inputs.removed)
        return plans.largest_magnitude(inputs.kept, inputs.removed, share, inputs.tokens.patches)

    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Return the plan of `fuse`, whose features come from the grid, where each token has four neighbors only."""
        return self._plan(tokens, signals, keep)[0]

    def reduce(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tokens, Plan]:
        """Return the tokens after the plan, with their cells in the new grid, and the plan.

        The plan does not tell in which step a token was removed, so plan and cells come from the same merge.
        """
        plan, cell = self._plan(tokens, signals, keep)
        state = replace(cast(GridState, tokens.state[0]), cell=cell)
        return plans.apply(plan, tokens).with_state((state, None)), plan

    def _plan(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Plan, Int32[Array, "B {keep}"]]:
        """Return the plan and the cells of its kept tokens."""
        merge = self.merge(tokens.with_state(tokens.state[0]), signals, keep)
        score = _encode(merge.target)
        kept, removed = split_by_score(score, keep)
        cell = take_rows(merge.cell, kept)
        plan = plans.represent(kept, removed, _shares(score, kept, removed))
        return replace(plan, features=take_rows(merge.values, cell)), cell

    @property
    def parts(self) -> Parts:
        """Pairs of neighbors, whose score encodes the target, and the values of largest magnitude."""
        score = Score(self.rank, ("keys",) if self.metric == "keys" else (), prepare=_prepare, lower_count=_lower_count)
        return Parts(score, None, Fusion(self.fuse, "merge", needs_match=False, macs=magnitude_macs))


def _shares(
    score: Float[Array, "B N"], kept: Int32[Array, "B K"], removed: Int32[Array, "B R"]
) -> Float32[Array, "B K R"]:
    """Return 1 where a kept token is the target of a removed one, `[B, K, R]`."""
    target = -1.0 - take_rows(score, removed)
    return (target[:, None, :] == kept[:, :, None].astype(jnp.float32)).astype(jnp.float32)


def _encode(target: Int32[Array, "B N"]) -> Float32[Array, "B N"]:
    is_kept = target == jnp.arange(target.shape[1], dtype=jnp.int32)[None]
    return jnp.where(is_kept, 1.0, -1.0 - target.astype(jnp.float32))

"""CubistMerge: chains of grids, the grid of the survivors, and rules of ties."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops.grids import grid_chain, grid_of, lower_to_grid, merge_neighbors
from tcvit_jax.reducers.cubistmerge import survivor_grid
from tcvit_jax.tokens import Tokens
from tests.models.builders import images_of, small, variables_of
from tests.reducers import peers
from tests.reducers.scenes import condense, scene
from tests.reducers.test_peers import check, make_case

SIDES = st.integers(1, 40)


@given(SIDES, SIDES)
def test_chains_lose_one_line_at_a_time_and_keep_the_shape(height, width):
    chain = grid_chain((height, width))
    assert list(chain) == list(peers.grids_of((height, width)))
    assert (chain[0], chain[-1], len(chain)) == ((height, width), (1, 1), height + width - 1)
    cells = [rows * columns for rows, columns in chain]
    assert cells == sorted(set(cells), reverse=True)
    for rows, columns in chain:
        assert grid_of((height, width), rows * columns) == (rows, columns)
        # The fraction of the rows that is left differs from that of the columns by at most one line.
        assert abs(rows / height - columns / width) <= max(1 / height, 1 / width) + 1e-9
    assert grid_of((height, width), 0) is None


@given(SIDES, SIDES, st.data())
def test_counts_are_lowered_to_grids_of_at_least_half_of_the_lines(height, width, data):
    rows, columns = data.draw(st.sampled_from(grid_chain((height, width))))
    count = data.draw(st.integers(0, rows * columns))
    options = [
        rows * columns - h * w
        for h, w in peers.grids_of((height, width))
        if rows - rows // 2 <= h <= rows and columns - columns // 2 <= w <= columns
    ]
    assert lower_to_grid((height, width), rows * columns, count) == max(c for c in options if c <= count)


@pytest.mark.parametrize("grid", [(2, 2), (2, 3), (3, 2), (1, 9), (9, 1), (4, 7), (7, 4)])
def test_two_reductions_equal_the_reference_and_leave_a_rectangle(grid):
    """To every grid of at least half of the rows and columns, and then to the smallest grid that can be reached."""
    reducer, patches = tc.CubistMerge(), grid[0] * grid[1]
    example = scene(3, grid=grid)
    limit = patches - reducer.lower_count(patches, 1, patches, grid)
    sizes = [h * w for h, w in grid_chain(grid) if limit <= h * w < patches]
    for keep in sizes[:: max(1, len(sizes) - 1)]:
        plan, out = condense(reducer, example, keep)
        tokens = replace(out, block=1)
        positions = []
        for image in range(2):
            case = make_case(example, image, keep, example.tokens, list(range(patches)), grid=grid)
            expected = peers.cubistmerge(case, reducer)
            check(expected, plan, out, image)
            positions.append(expected.position)
        check_grid(out, grid_of(grid, keep), positions)
        keep2 = keep - reducer.lower_count(keep, 1, keep - 1, grid)
        if keep2 == keep:
            continue
        next_scene = scene(4, grid=(1, keep))._replace(tokens=tokens)
        plan2, out2 = condense(reducer, next_scene, keep2, is_prepared=True)
        for image in range(2):
            case = make_case(next_scene, image, keep2, tokens, positions[image], example.tokens.patches, grid)
            check(peers.cubistmerge(case, reducer), plan2, out2, image)


def check_grid(tokens, shape, positions):
    rows = np.asarray(survivor_grid(tokens))
    assert rows.shape == (len(positions), *shape)
    for image, position in enumerate(positions):
        raster = rows[image].ravel()
        assert sorted(raster) == list(range(len(position)))
        np.testing.assert_array_equal(np.asarray(position)[raster], range(len(position)))


def test_plan_of_the_parts_is_the_plan_from_the_grid():
    """A removed token whose target is removed in the columns moves on with it."""
    reducer, example = tc.CubistMerge(), scene(5)
    tokens = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))
    plan, other = reducer.plan(tokens, example.signals, 12), tc.Reducer.plan(reducer, tokens, example.signals, 12)
    jax.tree.map(np.testing.assert_array_equal, plan, other)


def test_gradient_reaches_the_token_that_each_channel_comes_from():
    reducer, example = tc.CubistMerge(), scene(6)
    tokens = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))

    def total(x):
        return reducer.reduce(tokens.with_x(x), example.signals, 12)[0].patches.sum()

    gradient = np.asarray(jax.grad(total)(tokens.x))
    assert set(np.unique(gradient)) == {0, 1}
    np.testing.assert_array_equal(gradient[:, :1], 0)
    values = np.asarray(tokens.patches)[gradient[:, 1:] == 1]
    out = reducer.reduce(tokens, example.signals, 12)[0].patches
    np.testing.assert_array_equal(np.sort(values), np.sort(np.asarray(out).ravel()))


def test_ties_go_to_the_left_and_leave_the_higher_positions():
    """Equal vectors: the last candidate leaves, to its left. Opposite values: that of the receiving token stays."""
    values = jnp.ones((1, 2, 6, 3)).at[:, :, 5].set(-1.0)
    rest, positions, target = merge_neighbors(values, jnp.ones((1, 2, 6, 4)), 1)
    np.testing.assert_array_equal(positions[0], [[0, 1, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(target[0], [[0, 1, 2, 3, 4, 4]] * 2)
    np.testing.assert_array_equal(rest, 1)
    # From the left first: 2 is larger than 1, and -2 is not larger than 2.
    values = jnp.asarray([1.0, 2, 1, -2, 1]).reshape(1, 1, 5, 1)
    metric = jnp.asarray([[0, 1.0], [1, 0], [1, 0], [1, 0], [0, 1]])[None, None]
    rest, positions, target = merge_neighbors(values, metric, 2)
    np.testing.assert_array_equal(target[0, 0], [0, 2, 2, 2, 4])
    np.testing.assert_array_equal(rest.ravel(), [1, 2, 1])


def test_survivors_of_a_model_form_a_grid_in_every_image():
    reducer = tc.CubistMerge()
    model = small(reducer, (6, 5, 9))
    assert model.removed == (6, 5, 9)
    images = images_of(2)
    _, tokens = model.apply(variables_of(model), images, patches=True, method="outputs")
    rows = np.asarray(survivor_grid(tokens))
    assert rows.shape == (2, 4, 4)
    for image in rows:
        assert sorted(image.ravel()) == list(range(16))
    with pytest.raises(tc.InputError, match="survivor_grid requires tokens of a model with reducer=tc.CubistMerge"):
        survivor_grid(Tokens.start(jnp.ones((1, 5, 4)), 1))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (7, "schedule: removes 7 of 36 patch tokens in block 0; the method can remove one of 0, 6, 11, 16, 20, 24, 27"),
        (
            [6, 9, 0],
            "schedule: removes 9 of 30 patch tokens in block 1; the method can remove one of 0, 5, 10, 14, 18, 21",
        ),
        ([30, 0, 0], "schedule: removes 30 of 36 patch tokens in block 0; the method can remove at most 27"),
        (tc.schedule.keep_rate(0.1), "keep_rate(rate=0.1): removes 32 of 36 patch tokens in block 0; "
         "the method can remove at most 27"),
    ],
)  # fmt: skip
def test_impossible_counts_are_errors_that_list_the_possible_ones(schedule, message):
    with pytest.raises(tc.InputError) as error:
        tc.condense(small(), tc.CubistMerge(), schedule)
    assert str(error.value) == message


def test_schedules_are_lowered_to_grids():
    dense = small(depth=6)
    for schedule in (tc.schedule.keep_rate(0.9), tc.schedule.linear(4, 0.5), tc.schedule.deferred(1, 0.15)):
        model = tc.condense(dense, tc.CubistMerge(), schedule)
        assert {count for count in model.cost().tokens} <= {h * w for h, w in grid_chain((6, 6))}
        exact = tc.condense(dense, tc.ToMe(), schedule)
        assert 0 <= model.cost().tokens[-1] - exact.cost().tokens[-1] < 6

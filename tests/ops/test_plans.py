"""Tests of plans against the equivalent dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.errors import InputError
from tcvit_jax.ops import plans
from tcvit_jax.tokens import Plan, Tokens

SEEDS = st.integers(0, 999)

# Compile once for all examples of a shape.
apply, average, update_slots, restore = map(jax.jit, (plans.apply, plans.average, plans.update_slots, plans.restore))
by_product, by_index = (jax.jit(form, static_argnums=2) for form in (plans.combine_by_product, plans.combine_by_index))


def random_split(rng, tokens, keep):
    order = np.stack([rng.permutation(tokens) for _ in range(2)])
    return np.sort(order[:, :keep]).astype(np.int32), np.sort(order[:, keep:]).astype(np.int32)


def random_tokens(rng, patches, prefix=1):
    tokens = Tokens.start(jnp.asarray(rng.standard_normal((2, prefix + patches, 3)), jnp.float32), prefix)
    return Tokens(
        tokens.x, jnp.asarray(rng.uniform(1, 4, (2, patches)), jnp.float32), tokens.origin, tokens.slots, prefix=prefix
    )


@settings(max_examples=20)
@given(SEEDS, st.integers(0, 2))
def test_apply_equals_the_matrix_of_the_plan(seed, prefix):
    rng = np.random.default_rng(seed)
    tokens = random_tokens(rng, 7, prefix)
    kept, removed = random_split(rng, 7, 4)
    weight, share = rng.uniform(0, 1, (2, 2, 4, 3)).astype(np.float32)
    self_weight = rng.uniform(0, 1, (2, 4)).astype(np.float32)
    plan = Plan(*map(jnp.asarray, (kept, removed, weight, self_weight, share)), target=jnp.zeros((2, 3), jnp.int32))
    out = apply(plan, tokens)
    np.testing.assert_array_equal(out.x[:, :prefix], tokens.x[:, :prefix])
    np.testing.assert_array_equal(out.origin, kept)
    for image in range(2):
        matrix, sizes = np.zeros((4, 7)), np.zeros((4, 7))
        for row in range(4):
            matrix[row, kept[image, row]], sizes[row, kept[image, row]] = self_weight[image, row], 1
            for column in range(3):
                matrix[row, removed[image, column]] = weight[image, row, column]
                sizes[row, removed[image, column]] = share[image, row, column]
        np.testing.assert_allclose(out.patches[image], matrix @ np.asarray(tokens.patches[image]), atol=1e-6)
        np.testing.assert_allclose(out.size[image], sizes @ np.asarray(tokens.size[image]), rtol=1e-6)


@settings(max_examples=20)
@given(SEEDS)
def test_average_conserves_size_and_weighted_features_within_range(seed):
    rng = np.random.default_rng(seed)
    tokens = random_tokens(rng, 8)
    kept, removed = random_split(rng, 8, 5)
    share = rng.uniform(0, 1, (2, 5, 3)).astype(np.float32)
    share /= share.sum(1, keepdims=True)
    plan = average(jnp.asarray(kept), jnp.asarray(removed), jnp.asarray(share), tokens.size)
    out = apply(plan, tokens)
    np.testing.assert_allclose(out.size.sum(-1), tokens.size.sum(-1), rtol=1e-6)
    before = (tokens.size[..., None] * tokens.patches).sum(1)
    np.testing.assert_allclose((out.size[..., None] * out.patches).sum(1), before, rtol=1e-5, atol=1e-5)
    assert (out.patches <= tokens.patches.max(1, keepdims=True) + 1e-6).all()
    assert (out.patches >= tokens.patches.min(1, keepdims=True) - 1e-6).all()


def test_add_keeps_tokens_and_adds_weighted_features_and_sizes():
    rng = np.random.default_rng(0)
    tokens = random_tokens(rng, 6)
    kept, removed = random_split(rng, 6, 4)
    weight = jnp.zeros((2, 4, 2)).at[:, 1, 0].set(0.25)
    plan = plans.add(jnp.asarray(kept), jnp.asarray(removed), weight)
    np.testing.assert_array_equal(plan.target, [[1, -1], [1, -1]])
    out = apply(plan, tokens)
    for image in range(2):
        expected = np.asarray(tokens.patches[image])[kept[image]]
        expected[1] += 0.25 * np.asarray(tokens.patches[image])[removed[image, 0]]
        np.testing.assert_allclose(out.patches[image], expected, rtol=1e-6)
        assert out.size[image, 1] == tokens.size[image, kept[image, 1]] + 0.25 * tokens.size[image, removed[image, 0]]


def test_target_has_the_largest_share_and_ties_go_to_the_lower_row():
    share = jnp.asarray([[[0.2, 0.5, 0.0], [0.8, 0.5, 0.0]]])
    plan = plans.add(jnp.asarray([[0, 1]]), jnp.asarray([[2, 3, 4]]), share)
    np.testing.assert_array_equal(plan.target, [[1, 0, -1]])


def test_drop_only_gathers_kept_tokens():
    rng = np.random.default_rng(1)
    tokens = random_tokens(rng, 6)
    kept, removed = random_split(rng, 6, 4)
    out = apply(plans.drop(jnp.asarray(kept), jnp.asarray(removed)), tokens)
    for image in range(2):
        np.testing.assert_array_equal(out.patches[image], tokens.patches[image][kept[image]])
        np.testing.assert_array_equal(out.size[image], tokens.size[image][kept[image]])
        np.testing.assert_array_equal(out.slots[image][removed[image]], [-1, -1])


def test_pool_appends_one_token():
    rng = np.random.default_rng(2)
    tokens = random_tokens(rng, 7)
    kept, removed = random_split(rng, 7, 4)
    weight = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    out = apply(plans.pool(*map(jnp.asarray, (kept, removed, weight))), tokens)
    np.testing.assert_allclose(out.size.sum(-1), tokens.size.sum(-1), rtol=1e-6)
    for image in range(2):
        patches = np.asarray(tokens.patches[image])
        np.testing.assert_array_equal(out.patches[image][:4], patches[kept[image]])
        np.testing.assert_allclose(out.patches[image][4], weight[image] @ patches[removed[image]], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(out.origin[image], [*kept[image], -1])
        np.testing.assert_array_equal(out.slots[image][removed[image]], [4, 4, 4])


def test_represent_passes_on_sizes_and_patches_but_no_features():
    rng = np.random.default_rng(4)
    tokens = random_tokens(rng, 6)
    kept, removed = random_split(rng, 6, 4)
    share = jnp.zeros((2, 4, 2)).at[:, 1, 0].set(1).at[:, 3, 1].set(1)
    out = apply(plans.represent(jnp.asarray(kept), jnp.asarray(removed), share), tokens)
    for image in range(2):
        size, removed_size = (np.asarray(tokens.size[image])[rows[image]] for rows in (kept, removed))
        np.testing.assert_array_equal(out.patches[image], tokens.patches[image][kept[image]])
        np.testing.assert_allclose(
            out.size[image], size + np.asarray([0, removed_size[0], 0, removed_size[1]]), rtol=1e-6
        )
        np.testing.assert_array_equal(out.slots[image][removed[image]], [1, 3])


def test_mask_keeps_the_shape_and_clears_sizes_and_slots():
    rng = np.random.default_rng(5)
    tokens = random_tokens(rng, 6)
    kept, removed = random_split(rng, 6, 4)
    valid = jnp.asarray([[True, False, True, True], [False, False, True, False]])
    out = apply(plans.mask(jnp.asarray(kept), jnp.asarray(removed), valid), tokens)
    assert out.x.shape == (2, 5, 3)
    for image in range(2):
        size = np.asarray(tokens.size[image])[kept[image]]
        np.testing.assert_array_equal(out.size[image], np.where(valid[image], size, 0))
        np.testing.assert_array_equal(out.slots[image][kept[image]], np.where(valid[image], range(4), -1))
        np.testing.assert_array_equal(out.slots[image][removed[image]], [-1, -1])


def test_scale_features_and_with_shares_affect_only_features_and_only_sizes():
    rng = np.random.default_rng(6)
    tokens = random_tokens(rng, 6)
    kept, removed = map(jnp.asarray, random_split(rng, 6, 4))
    share, factor = jnp.full((2, 4, 2), 0.25), jnp.asarray(rng.uniform(1, 2, (2, 4)), jnp.float32)
    for plan in (average(kept, removed, share, tokens.size), plans.add(kept, removed, share)):
        out, scaled_out = (apply(p, tokens) for p in (plan, plans.scale_features(plan, factor)))
        np.testing.assert_allclose(scaled_out.patches, out.patches * factor[..., None], rtol=1e-5)
        np.testing.assert_array_equal(scaled_out.size, out.size)
        reshared_out = apply(plans.with_shares(plan, 2 * share), tokens)
        np.testing.assert_array_equal(reshared_out.patches, out.patches)
        kept_size = np.take_along_axis(np.asarray(tokens.size), np.asarray(kept), 1)
        np.testing.assert_allclose(reshared_out.size - kept_size, 2 * (out.size - kept_size), rtol=1e-5)


def test_average_with_zero_mass_does_not_change_kept_tokens():
    rng = np.random.default_rng(3)
    tokens = random_tokens(rng, 4)
    kept, removed = jnp.asarray([[0, 1]] * 2), jnp.asarray([[2, 3]] * 2)
    plan = average(kept, removed, jnp.full((2, 2, 2), 0.5), jnp.zeros((2, 4)))
    np.testing.assert_array_equal(apply(plan, tokens).patches, tokens.patches[:, :2])


@settings(max_examples=20)
@given(SEEDS)
def test_restore_weights_compose_as_matrices(seed):
    """After two plans, each original patch is restored by the product of both matrices."""
    rng = np.random.default_rng(seed)
    tokens = random_tokens(rng, 8).with_restore_weights()
    expected = np.stack([np.eye(8)] * 2)
    for before, keep in ((8, 5), (5, 3)):
        kept, removed = random_split(rng, before, keep)
        share = rng.uniform(0, 1, (2, keep, before - keep)).astype(np.float32)
        share[:, :, 0] = 0  # This removed token is dropped.
        plan = average(*map(jnp.asarray, (kept, removed, share)), tokens.size)
        tokens = apply(plan, tokens)
        step = np.zeros((2, before, keep))
        for image in range(2):
            step[image, kept[image], np.arange(keep)] = 1
            for column, row in enumerate(removed[image][1:], start=1):
                step[image, row] = share[image, :, column] / share[image, :, column].sum()
        expected = expected @ step
    np.testing.assert_allclose(tokens.restore_weights, expected, atol=1e-6)
    restored = restore(tokens.patches, tokens.slots, tokens.restore_weights)
    np.testing.assert_allclose(restored, expected @ np.asarray(tokens.patches), atol=1e-5)
    is_lost = expected.sum(-1) == 0
    assert is_lost.any()
    np.testing.assert_array_equal(np.asarray(restored)[is_lost], 0)


def most_similar(x, row, candidates):
    """Return the position in `candidates` of the row of `x` with the highest cosine, the first of ties."""
    cosine = [x[row] @ x[c] / np.linalg.norm(x[row]) / np.linalg.norm(x[c]) for c in candidates]
    return int(np.argmax(cosine))


@settings(max_examples=20)
@given(SEEDS, st.sampled_from(["drop", "add", "pool", "mask"]))
def test_lost_patches_are_restored_from_the_most_similar_survivor(seed, kind):
    """After two plans, a patch follows the tokens that hold it, and the most similar survivor where none does."""
    rng = np.random.default_rng(seed)
    tokens = random_tokens(rng, 8).with_stand_ins()
    expected = np.tile(np.arange(8), (2, 1))
    for before, keep in ((8, 5), (5, 3)):
        kept, removed = random_split(rng, before, keep)
        share = rng.uniform(0, 1, (2, keep, before - keep)).astype(np.float32) / keep
        share[:, 0, 0] = 0.6  # Most of this token goes to the first survivor.
        x = np.asarray(tokens.patches, np.float64)
        valid = np.ones(kept.shape, bool)
        if kind == "drop":
            plan = plans.drop(*map(jnp.asarray, (kept, removed)))
        elif kind == "add":
            plan = plans.add(*map(jnp.asarray, (kept, removed, share)))
        elif kind == "pool":
            # An extra token, which the second plan removes or keeps as any other.
            kept, removed = kept[:, :-1], np.sort(np.concatenate([removed, kept[:, -1:]], axis=1), axis=1)
            plan = plans.pool(*map(jnp.asarray, (kept, removed, np.ones(removed.shape, np.float32))))
            valid = np.ones(kept.shape, bool)
        else:
            valid[:, 1] = False
            plan = plans.mask(*map(jnp.asarray, (kept, removed, valid)))
        tokens = apply(plan, tokens)
        for image in range(2):
            candidates = [row for row, is_valid in zip(kept[image], valid[image], strict=True) if is_valid]
            for patch, row in enumerate(expected[image]):
                column = list(removed[image]).index(row) if row in removed[image] else None
                if row in candidates:
                    new = list(kept[image]).index(row)
                elif kind == "pool":
                    new = kept.shape[1]
                elif kind == "add" and share[image, :, column].sum() > 0.5:
                    new = int(share[image, :, column].argmax())
                else:
                    new = list(kept[image]).index(candidates[most_similar(x[image], row, candidates)])
                expected[image, patch] = new
        np.testing.assert_array_equal(tokens.stand_ins, expected)
    np.testing.assert_array_equal(
        np.asarray(restore(tokens.patches, tokens.stand_ins)),
        np.take_along_axis(np.asarray(tokens.patches), expected[:, :, None], 1),
    )


@pytest.mark.parametrize("shape", [(), (2,), (2, 5)])
def test_restore_by_slots_returns_the_token_of_each_patch(shape):
    x = jnp.arange(6.0 * np.prod(shape, dtype=int)).reshape(2, 3, *shape)
    slots = jnp.asarray([[0, 2, 2, 1], [1, -1, 0, 2]])
    restored = np.asarray(restore(x, slots))
    for image in range(2):
        for patch, slot in enumerate(slots[image]):
            np.testing.assert_array_equal(restored[image, patch], 0 if slot < 0 else x[image, slot])


RESTORE = {"x": np.ones((2, 3, 5), np.float32), "slots": np.zeros((2, 4), np.int32)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [[1.0]]}, "x: expected number [B, N, ...], got a list"),
        ({"x": None}, "x: expected number [B, N, ...], got None"),
        ({"x": np.ones(3)}, "x: expected number [B, N, ...], got float64 (3,)"),
        ({"slots": [[0]]}, "slots: expected integer [2, N0], got a list"),
        ({"slots": np.zeros((2, 4))}, "slots: expected integer [2, N0], got float64 (2, 4)"),
        ({"slots": (RESTORE["slots"],)}, "slots: expected integer [2, N0], got a tuple"),
        ({"slots": RESTORE["slots"][:1]}, "slots: expected integer [2, N0], got int32 (1, 4)"),
        ({"slots": RESTORE["slots"][0]}, "slots: expected integer [2, N0], got int32 (4,)"),
        (
            {"restore_weights": np.ones((2, 4, 2), np.float32)},
            "restore_weights: expected floating [2, 4, 3], got float32 (2, 4, 2)",
        ),
    ],
)
def test_restore_rejects_other_types_and_shapes(changes, message):
    with pytest.raises(InputError) as error:
        plans.restore(**{**RESTORE, **changes})
    assert str(error.value) == message


def test_restore_takes_numpy_arrays():
    np.testing.assert_array_equal(plans.restore(**RESTORE), np.ones((2, 4, 5)))


@settings(max_examples=20)
@given(SEEDS)
def test_update_slots_composes_like_dictionaries(seed):
    rng = np.random.default_rng(seed)
    tokens, slots = 9, np.tile(np.arange(9), (2, 1))
    expected = [{patch: patch for patch in range(9)} for _ in range(2)]
    for keep in (7, 4, 2):
        kept, removed = random_split(rng, tokens, keep)
        target = rng.integers(-1, keep, removed.shape).astype(np.int32)
        empty = jnp.zeros((2, keep, tokens - keep))
        plan = Plan(jnp.asarray(kept), jnp.asarray(removed), empty, empty[..., 0], empty, jnp.asarray(target))
        slots = update_slots(plan, jnp.asarray(slots, jnp.int32))
        for image in range(2):
            new_row = {int(row): position for position, row in enumerate(kept[image])}
            new_row |= {int(row): int(position) for row, position in zip(removed[image], target[image], strict=True)}
            expected[image] = {patch: new_row.get(row, -1) for patch, row in expected[image].items()}
            np.testing.assert_array_equal(slots[image], list(expected[image].values()))
        tokens = keep


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("kind", ["drop", "add", "average", "pool"])
def test_combine_by_product_equals_combine_by_index(kind, prefix, dtype):
    """Rows without added tokens are equal to the bit. The TPU implementation runs on the CPU."""
    rng = np.random.default_rng(4)
    kept, removed = map(jnp.asarray, random_split(rng, 9, 5))
    weight = jnp.asarray(rng.uniform(0, 1, (2, 5, 4)), jnp.float32).at[:, 2].set(0)
    x = jnp.asarray(rng.standard_normal((2, prefix + 9, 6))).astype(dtype)
    plan = {
        "drop": lambda: plans.drop(kept, removed),
        "add": lambda: plans.add(kept, removed, weight),
        "average": lambda: average(kept, removed, weight, jnp.ones((2, 9))),
        "pool": lambda: plans.pool(kept, removed, weight[:, 0]),
    }[kind]()
    product, index = by_product(plan, x, prefix), by_index(plan, x, prefix)
    assert product.dtype == index.dtype == x.dtype
    # Sums may differ in the last digit of float32 and are then rounded to the dtype.
    tolerance = 1e-6 if dtype == "float32" else 2**-8
    np.testing.assert_allclose(product.astype(jnp.float32), index.astype(jnp.float32), rtol=tolerance, atol=1e-6)
    rows = np.arange(prefix + 5) if kind in ("drop", "pool") else [*range(prefix), prefix + 2]
    np.testing.assert_array_equal(product[:, rows], index[:, rows])
    if dtype == "float32":
        gradients = [
            jax.jit(jax.grad(lambda x, form=form: (form(plan, x, prefix) ** 2).sum()))(x)
            for form in (by_product, by_index)
        ]
        np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_largest_magnitude_takes_channels_of_the_group(dtype):
    """In loops, with ties: the value of the kept token comes first, then the positive one."""
    rng = np.random.default_rng(0)
    # Few different values, so that magnitudes are often equal.
    x = jnp.asarray(rng.integers(-3, 4, (2, 10, 8)), dtype)
    kept, removed = jnp.asarray([[0, 2, 5, 8]] * 2, jnp.int32), jnp.asarray([[1, 3, 4, 6, 7, 9]] * 2, jnp.int32)
    target = rng.integers(0, 3, (2, 6))
    plan = plans.largest_magnitude(kept, removed, jax.nn.one_hot(target, 4, axis=1), x)
    out = plans.combine(plan, jnp.concatenate([x[:, :1], x], axis=1), 1)
    assert out.dtype == plan.features.dtype == dtype
    np.testing.assert_array_equal(out[:, 0], x[:, 0])
    np.testing.assert_array_equal(plan.target, target)
    values = np.asarray(x, np.float64)
    for image, row, channel in np.ndindex(2, 4, 8):
        own = values[image, int(kept[image, row]), channel]
        others = [values[image, int(removed[image, r]), channel] for r in range(6) if target[image, r] == row]
        largest = max([own, *others], key=lambda value: (abs(value), value > 0))
        expected = own if abs(own) == abs(largest) else largest
        assert float(out[image, row + 1, channel]) == expected

"""Properties of a Vision Transformer with any reducer. `test_parity.py` compares the outputs with published code."""

from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tests import golden
from tests.models.builders import images_of, run, run_traced, small, variables_of
from tests.switches import (
    COMPILED_METHODS,
    COMPILED_SWITCHES,
    MAIN_METHODS,
    REDUCERS_AND_SWITCHES,
    REPRESENTATIVE_METHODS,
)

# These reducers run three blocks, and the middle block removes nothing.
REFERENCES = [param.values[0] for param in MAIN_METHODS]


@pytest.mark.parametrize("reducer", COMPILED_METHODS)
def test_traces_are_valid_and_images_are_independent(reducer):
    """Check the trace, other images in the batch, constant images and a zero schedule with one compilation."""
    removed = (9, 0, 4) if reducer in REFERENCES else (9, 4)
    model, images = small(reducer, removed, depth=len(removed)), images_of(3)
    variables = variables_of(model)
    logits, trace = jax.tree.map(np.asarray, run_traced(model, variables, images))
    assert len(np.unique(logits, axis=0)) == 3
    check_trace(reducer, trace, model.removed)
    for others in (images_of(3, 1), np.zeros_like(images)):
        new_logits, _ = run_traced(model, variables, np.stack([others[0], images[1], others[2]]))
        np.testing.assert_array_equal(new_logits[1], logits[1])
        assert bool(jnp.isfinite(new_logits).all())
    plain, *others = (small(), small(reducer, 0), small(reducer, [0, 0, 0]), small(None, 5))
    variables = variables_of(plain)
    program = str(jax.make_jaxpr(plain.apply)(variables, images))
    for other in others:
        assert str(jax.make_jaxpr(other.apply)(variables, images)) == program


@pytest.mark.parametrize("reducer", MAIN_METHODS)
def test_batch_size_does_not_change_logits(reducer):
    model, images = small(reducer, 8, depth=2), images_of(4)
    variables = variables_of(model)
    batched = run(model, variables, images)
    single = jnp.concatenate([run(model, variables, image[None]) for image in images])
    # The kept tokens are equal, but matrix products sum in an order that depends on the batch size.
    np.testing.assert_allclose(batched, single, rtol=0, atol=5e-6)


def check_trace(reducer, trace, removed):
    remaining, previous = 36, [set(range(36))] * 3
    for count, kept, slots, sizes, counts in zip(
        removed, trace.kept, trace.slots, trace.sizes, trace.counts, strict=True
    ):
        remaining -= count - (reducer.extra_tokens if count else 0)
        assert kept.shape == sizes.shape == (3, remaining)
        assert slots.shape == (3, 36)
        is_real = sizes > 0
        assert reducer.has_padding or is_real.all()
        assert reducer.extra_tokens or (kept >= 0).all()
        np.testing.assert_array_equal(counts, is_real.sum(-1))
        for image in range(3):
            rows = np.flatnonzero(is_real[image] & (kept[image] >= 0))
            patches = kept[image][rows]
            assert (np.diff(patches) > 0).all()
            assert set(patches) <= previous[image]
            # The slot of a kept patch is its own token, and no slot refers to padding.
            np.testing.assert_array_equal(slots[image, patches], rows)
            assert set(slots[image]) - {-1} <= set(np.flatnonzero(is_real[image]))
            previous[image] = set(patches)


@pytest.mark.parametrize("reducer", REPRESENTATIVE_METHODS)
def test_bfloat16_logits_stay_close(reducer):
    images = images_of(2)
    model, model_bf16 = small(reducer, 8, depth=2), small(reducer, 8, depth=2, dtype="bfloat16")
    variables = variables_of(model)
    logits = run(model_bf16, variables, images)
    assert logits.dtype == jnp.float32
    # With 8-bit features, tokens of similar score may swap, so the tolerance is coarse and relative.
    expected = run(model, variables, images)
    assert float(jnp.abs(logits - expected).max() / jnp.abs(expected).max()) < 0.1


@pytest.mark.parametrize(
    "reducer",
    [
        None, *REPRESENTATIVE_METHODS, tc.GTP(attention_keep=0.6), tc.GTP(propagation="mean"),
        tc.TCViT(fuse="soft", grad_through_soft=True), tc.TCViT(fuse="topm", grad_through_soft=True, temperature=3.0),
    ],
    ids=str,
)  # fmt: skip
def test_gradients_are_finite_and_nonzero_for_every_parameter(reducer):
    gradients = gradients_of(reducer)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(leaf).all()), path
        assert bool((leaf != 0).any()), path


@cache
def gradients_of(reducer, trace=False):
    model, images = small(reducer, 8, depth=2), images_of(2)

    @jax.jit
    @jax.grad
    def gradients(variables):
        outputs = model.apply(variables, images, trace=trace)
        return ((outputs[0] if trace else outputs) ** 2).sum()

    return gradients(variables_of(model))


@pytest.mark.parametrize("reducer", MAIN_METHODS)
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constant_image_gives_finite_logits(reducer, fill):
    model = small(reducer, 8, depth=2)
    logits = run(model, variables_of(model), jnp.full((1, 24, 24, 3), fill))
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("reducer", REPRESENTATIVE_METHODS)
def test_maximal_reduction_in_last_block_keeps_logits(reducer):
    """The last block removes all patch tokens but one, or as many as the method can remove in one block."""
    count = reducer.max_removable(36, 1)
    plain, reduced = small(depth=2), small(reducer, [0, count], depth=2)
    variables, images = variables_of(plain), images_of(2)
    logits, trace = run_traced(reduced, variables, images)
    assert trace.kept[-1].shape == (2, 36 - count + reducer.extra_tokens)
    assert count == 35 or reducer.parts.score.is_bipartite
    np.testing.assert_allclose(logits, run(plain, variables, images), rtol=0, atol=3e-6)


PREFIXES = {
    "class": {},
    "class and distillation": {"distilled": True},
    "class and registers": {"reg_tokens": 4, "no_embed_class": True},
    "none": {"class_token": False, "global_pool": "avg"},
    "registers": {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
}


@settings(max_examples=5)
@given(
    st.sampled_from(REDUCERS_AND_SWITCHES), st.sampled_from(list(PREFIXES)), st.sampled_from([(2, 3), (5, 4), (3, 6)]),
    st.integers(1, 3), st.data(),
)  # fmt: skip
@pytest.mark.slow
def test_any_grid_prefix_batch_and_schedule(reducer, prefix, grid, batch, data):
    """Shapes match the schedule, and the trace locates every kept patch."""
    height, width = grid
    if isinstance(reducer, tc.GTP):
        reducer = replace(reducer, neighbors=min(3, reducer.neighbors))
    elif "graph" in vars(reducer).values():
        height, width = max(height, 3), max(width, 3)
    if "class" not in prefix and reducer.needs_class_token:
        reducer = tc.TCViT(dominance="gap")
    sizes = {"img_size": (4 * height, 4 * width), "depth": 2, **PREFIXES[prefix]}
    protected, patches = small(None, 0, **sizes).prefix, height * width
    first = data.draw(st.integers(0, min(patches - 2, reducer.max_removable(patches, protected))))
    first = reducer.lower_count(patches, protected, first, (height, width))
    between = patches - first + (reducer.extra_tokens if first else 0)
    second = data.draw(st.integers(0, min(patches - 2 - first, reducer.max_removable(between, protected))))
    second = reducer.lower_count(between, protected, second, (height, width))
    model = small(reducer, [first, second], **sizes)
    variables, images = variables_of(model), golden.images(batch, (4 * height, 4 * width), 0)

    @jax.jit
    def both(v, x):
        features = partial(model.apply, v, x, method="features")
        return *features(trace=True), features(restore=True)

    tokens, trace, restored = both(variables, images)
    remaining = height * width
    for block, count in enumerate((first, second)):
        remaining -= count - (reducer.extra_tokens if count else 0)
        assert trace.kept[block].shape == trace.sizes[block].shape == (batch, remaining)
        assert (np.asarray(trace.slots[block]) < remaining).all()
        is_real = np.asarray(trace.sizes[block]) > 0
        assert reducer.has_padding or is_real.all()
        np.testing.assert_array_equal(trace.counts[block], is_real.sum(-1))
        for image in range(batch):
            origin = np.asarray(trace.kept[block][image])
            rows = np.flatnonzero(is_real[image] & (origin >= 0))
            assert (np.diff(origin[rows]) > 0).all()
            np.testing.assert_array_equal(trace.slots[block][image][origin[rows]], rows)
    assert tokens.shape == (batch, model.prefix + remaining, 24)
    assert model.cost().tokens[-1] == remaining
    assert restored.shape == (batch, height, width, 24)


@pytest.mark.parametrize(
    "reducer",
    [
        None, *REPRESENTATIVE_METHODS, tc.GTP(attention_keep=0.6), tc.GTP(propagation="mean"), tc.TCViT(fuse="soft"),
        tc.TCViT(fuse="drop", proportional_attention=False),
    ],
    ids=str,
)  # fmt: skip
def test_skipped_patch_tokens_do_not_change_logits(reducer):
    """With a trace, the last block computes all tokens and its plan."""
    model = small(reducer, 5, depth=2, distilled=True, reg_tokens=1)
    both = jax.jit(lambda v, x: (model.apply(v, x), *model.apply(v, x, trace=True)))
    logits, full_logits, trace = both(variables_of(model), images_of(2))
    np.testing.assert_allclose(logits, full_logits, rtol=0, atol=3e-6)
    extra_tokens = reducer.extra_tokens if reducer is not None else 0
    assert trace.kept[1].shape[1] == (36 if reducer is None else 36 - 10 + 2 * extra_tokens)


@pytest.mark.parametrize("reducer", [None, *MAIN_METHODS])
def test_skipped_patch_tokens_do_not_change_gradients(reducer):
    chex.assert_trees_all_close(gradients_of(reducer), gradients_of(reducer, trace=True), rtol=1e-4, atol=1e-5)


@cache
def duplicate_patches(seed=0):
    """Variables without positions for a small model, an image of three patches repeated twelve times, and its logits."""
    model = small(depth=2)
    params = dict(variables_of(model, seed)["params"])
    params["pos_embed"] = jnp.zeros_like(params["pos_embed"])
    params["cls_token"] = jnp.zeros_like(params["cls_token"])  # uniform attention in the first block too
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((24, 24)))[0]
    # Tokens attend to equal tokens in the first block and to all tokens in the second, which depends on their counts.
    for block, peak in (("blocks_0", 5), ("blocks_1", 0)):
        kernel = params[block]["attn"]["qkv"]["kernel"]
        kernel = kernel.at[:, :24].set(peak * rotation).at[:, 24:48].set(peak * rotation)
        attn = {**params[block]["attn"], "qkv": {"kernel": kernel, "bias": jnp.zeros(72)}}
        params[block] = {**params[block], "attn": attn, "norm1": {"scale": jnp.ones(24), "bias": jnp.zeros(24)}}
    rng = np.random.default_rng(seed)
    patches = 2 * rng.standard_normal((3, 4, 4, 3)).astype(np.float32)
    rows = patches[rng.permutation(np.repeat(np.arange(3), 12))].reshape(6, 6, 4, 4, 3)
    images = jnp.asarray(rows.transpose(0, 2, 1, 3, 4).reshape(1, 24, 24, 3))
    return {"params": params}, images, run(model, {"params": params}, images)


def _merges(reducer):
    return reducer.removal == "merge" and reducer.proportional_attention and reducer.attention_keep == 1


# Only one score of GTP, since scores only choose among equal tokens; of the other methods, those that merge.
DUPLICATE_SWITCHES = [
    switch
    for switch in COMPILED_SWITCHES
    if not switch.id.startswith("GTP(score")
    and (_merges(switch.values[0]) or isinstance(switch.values[0], tc.GTP | tc.TCViT | tc.EViT | tc.ATS))
]


@pytest.mark.parametrize("reducer", DUPLICATE_SWITCHES)
def test_merging_equal_tokens_keeps_logits(reducer):
    """Two equal keys equal one key with bias log 2. This test depends on every part of a merging method.

    Methods that drop or propagate tokens change the logits by design.
    """
    variables, images, expected = duplicate_patches()
    logits = run(small(reducer, [9, 0], depth=2), variables, images)
    difference = float(jnp.abs(logits - expected).max())
    if _merges(reducer):
        assert difference < 1e-5
    else:
        assert difference > 1e-3


def test_restored_features_are_those_of_the_surviving_token():
    for reducer in (tc.GTP(), tc.TCViT(), tc.TCViT(fuse="single"), tc.ATS()):
        model, images = small(reducer, 8, depth=2), images_of(2)
        variables = variables_of(model)

        @jax.jit
        def both(v, x, model=model):
            traced = model.apply(v, x, method="features", trace=True)
            return *traced, model.apply(v, x, method="features", restore=True)

        tokens, trace, grid = both(variables, images)
        grid = np.asarray(grid).reshape(2, 36, 24)
        patches, slots, kept = (np.asarray(each) for each in (tokens[:, 1:], trace.slots[-1], trace.kept[-1]))
        for image in range(2):
            distance = np.abs(grid[image, :, None] - patches[image, None, :]).max(-1)
            assert distance.min(1).max() < 1e-5, "each patch is restored from a survivor"
            is_own = (kept[image] >= 0) & (np.asarray(trace.sizes[-1])[image] > 0)
            np.testing.assert_allclose(grid[image, kept[image][is_own]], patches[image][is_own], atol=1e-5)
        if reducer.removal == "merge":
            # The same from the trace, as users do.
            np.testing.assert_allclose(grid, tc.restore(patches, slots), atol=1e-5)


def test_soft_fusion_is_restored_by_product_of_shares():
    model, images = small(tc.TCViT(fuse="soft"), 8, depth=2), images_of(2)
    variables = variables_of(model)
    features = partial(model.apply, method="features")
    tokens, grid = jax.jit(lambda v, x: (features(v, x), features(v, x, restore=True)))(variables, images)
    matrix = np.stack([np.eye(36)] * 2)
    for reduction in tc.measure.reductions(model, variables, images):
        plan = jax.tree.map(np.asarray, reduction.plan)
        step = np.zeros((2, reduction.tokens.origin.shape[1], plan.kept.shape[1]))
        for image in range(2):
            step[image, plan.kept[image], np.arange(plan.kept.shape[1])] = 1
            step[image, plan.removed[image]] = plan.share[image].T
        matrix = matrix @ step
    np.testing.assert_allclose(matrix.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(grid).reshape(2, 36, 24), matrix @ np.asarray(tokens[:, 1:]), atol=1e-5)


def test_dense_features_are_restored_unchanged():
    model, images = small(depth=2), images_of(2)
    features = partial(model.apply, method="features")
    both = jax.jit(lambda v, x: (features(v, x), *features(v, x, restore=True, trace=True)))
    tokens, grid, trace = both(variables_of(model), images)
    np.testing.assert_array_equal(grid.reshape(2, 36, 24), tokens[:, 1:])
    assert [kept.shape[1] for kept in trace.kept] == [36, 36]


def test_dropout_and_drop_path_act_only_in_training():
    rates = {"drop_path_rate": 0.5, "proj_drop_rate": 0.2, "pos_drop_rate": 0.1, "drop_rate": 0.1}
    model, images = small(depth=2, **rates), images_of(4)
    variables = variables_of(model)
    plain = run(small(depth=2), variables, images)
    np.testing.assert_array_equal(run(model, variables, images), plain)

    @jax.jit
    def train(seed):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    assert not np.allclose(train(0), plain)


@pytest.mark.parametrize("reducer", MAIN_METHODS)
def test_training_without_dropout_equals_evaluation(reducer):
    model, images = small(reducer, 8, depth=2), images_of(2)
    variables = variables_of(model)
    train = jax.jit(lambda v, x: model.apply(v, x, train=True, rngs={"dropout": jax.random.key(0)}))
    np.testing.assert_allclose(train(variables, images), run(model, variables, images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("reducer", COMPILED_METHODS)
def test_deferred_models_run(reducer):
    model = small(depth=4)
    model = tc.condense(model, reducer, tc.schedule.deferred(2, 0.3))
    images = images_of(2)
    logits, trace = run_traced(model, variables_of(model), images)
    assert bool(jnp.isfinite(logits).all())
    np.testing.assert_array_equal(trace.kept[1], np.tile(np.arange(36), (2, 1)))
    assert [kept.shape[1] for kept in trace.kept] == list(model.cost().tokens[1:])
    assert trace.kept[3].shape[1] < trace.kept[2].shape[1] < 36

"""Properties of every reducer and option: parametrized tests, which include new reducers automatically."""

import json
from dataclasses import replace

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import reducers
from tcvit_jax.ops import plans
from tcvit_jax.reducers.parts import BlockContext
from tcvit_jax.tokens import Tokens
from tests.reducers.reference import split
from tests.reducers.scenes import KEEP, attend, condense, feasible_keep, scene
from tests.switches import METHODS, REDUCERS_AND_SWITCHES, SWITCHES


@pytest.mark.parametrize("reducer", SWITCHES)
@pytest.mark.parametrize("keep", [1, KEEP])
def test_plan_partitions_the_patches(reducer, keep):
    example = scene(0, prefix=2)
    check_partition(reducer, example, feasible_keep(reducer, example, keep))


# Batch size, prefix, height, width, and the number of tokens to keep if the method can remove the others.
ODD_SHAPES = [(1, 5, 2, 2, 1), (3, 3, 4, 3, 7)]


@settings(max_examples=6)
@given(st.sampled_from(REDUCERS_AND_SWITCHES), st.integers(0, 999), st.sampled_from(ODD_SHAPES), st.integers(1, 2))
@pytest.mark.slow
def test_plan_partitions_patches_of_any_shape(reducer, seed, shape, class_tokens):
    batch, prefix, height, width, keep = shape
    patches = height * width
    if isinstance(reducer, tc.GTP):
        reducer = replace(reducer, neighbors=min(reducer.neighbors, patches - 1))
    elif patches <= tc.GTP.neighbors:
        hypothesis.assume("graph" not in vars(reducer).values())
    example = scene(seed, prefix, batch, (height, width), class_tokens=class_tokens)
    check_partition(reducer, example, feasible_keep(reducer, example, keep))


def check_partition(reducer, example, keep):
    batch, patches, prefix = *example.tokens.origin.shape, example.tokens.prefix
    plan, out = condense(reducer, example, keep)
    survivors = keep + reducer.extra_tokens
    for image in range(batch):
        kept, removed = set(np.asarray(plan.kept[image]).tolist()), set(np.asarray(plan.removed[image]).tolist())
        assert len(kept) == keep
        assert kept | removed == set(range(patches))
        assert not kept & removed
    assert (np.diff(plan.kept) > 0).all()
    assert (np.diff(plan.removed) > 0).all()
    assert out.x.shape == (batch, prefix + survivors, 6)
    assert (plan.target < survivors).all()
    # Prefix tokens are unchanged, and no token is fused into them.
    np.testing.assert_array_equal(out.x[:, :prefix], example.tokens.x[:, :prefix])
    # Sizes never decrease, except for padding, which has size 0 and holds no patch.
    size_before = np.take_along_axis(np.asarray(example.tokens.size), np.asarray(plan.kept), axis=1)
    valid = np.ones((batch, keep), bool) if plan.valid is None else np.asarray(plan.valid)
    assert reducer.has_padding or valid.all()
    assert valid.any(-1).all()
    assert (np.asarray(out.size[:, :keep])[valid] >= size_before[valid] * (1 - 1e-6)).all()
    assert (np.asarray(out.size[:, :keep])[~valid] == 0).all()
    kept_slots = np.take_along_axis(np.asarray(out.slots), np.asarray(plan.kept), axis=1)
    np.testing.assert_array_equal(kept_slots, np.where(valid, np.arange(keep), -1))
    # The target of a removed token is the survivor with its largest share, which holds its patches.
    if plan.share is None:
        assert (np.asarray(plan.target) == -1).all()
    else:
        at_target = np.take_along_axis(np.asarray(plan.share), np.maximum(plan.target, 0)[:, None, :], axis=1)[:, 0]
        np.testing.assert_array_equal(np.where(np.asarray(plan.target) < 0, 0, at_target), plan.share.max(1))
    removed_slots = np.take_along_axis(np.asarray(out.slots), np.asarray(plan.removed), axis=1)
    np.testing.assert_array_equal(removed_slots, plan.target)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_removal_attribute_describes_the_plan(reducer):
    example = scene(0, class_tokens=1)
    keep = feasible_keep(reducer, example, KEEP)
    plan, out = condense(reducer, example, keep)
    tokens, patches = example.tokens, np.asarray(example.tokens.patches)
    total = np.asarray(out.size.sum(-1)) / np.asarray(tokens.size.sum(-1))
    kept_patches = np.take_along_axis(patches, np.asarray(plan.kept)[..., None], 1)
    if reducer.removal == "drop":
        assert plan.self_weight is plan.weight is plan.share is None
        np.testing.assert_array_equal(out.patches, kept_patches)
        # Every row holds a patch, except for padding.
        rows = [set(np.asarray(slots).tolist()) - {-1} for slots in out.slots]
        assert rows == [set(np.flatnonzero(size)) for size in np.asarray(out.size)]
        assert reducer.has_padding or rows == [set(range(keep))] * 2
    elif reducer.removal == "merge":
        # No size is lost, weights are those of means, and means stay in the range of the merged tokens.
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert (np.asarray(out.slots) >= 0).all()
        if plan.features is not None:
            check_magnitudes(plan, patches, np.asarray(out.patches))
            return
        if plan.weight is None:
            np.testing.assert_array_equal(out.patches, kept_patches)
            return
        assert (np.asarray(plan.weight) >= 0).all()
        factor = np.asarray(plan.self_weight + plan.weight.sum(-1))
        mean = np.asarray(out.patches) / factor[..., None]
        assert (mean <= patches.max(1, keepdims=True) + 1e-6).all()
        assert (mean >= patches.min(1, keepdims=True) - 1e-6).all()
        # With MLERP, the result has the direction of the mean and the largest norm of the merged tokens.
        norm = np.linalg.norm(patches, axis=-1)
        others = np.where(plan.weight > 0, np.take_along_axis(norm, np.asarray(plan.removed), 1)[:, None], 0).max(-1)
        longest = np.maximum(np.take_along_axis(norm, np.asarray(plan.kept), 1), others)
        has_largest_norm = np.isclose(np.linalg.norm(out.patches, axis=-1), longest, rtol=1e-5)
        assert (np.isclose(factor, 1, rtol=1e-6) | has_largest_norm).all()
    elif plan.self_weight is not None:
        # Also a mean, but part of the size is lost.
        np.testing.assert_allclose(plan.self_weight + plan.weight.sum(-1), 1, rtol=1e-6)
        assert (total < 1).all()


def check_magnitudes(plan, patches, features):
    """Every channel has the value of largest magnitude of the kept token and those that it receives."""
    for image, (kept, removed, target) in enumerate(zip(plan.kept, plan.removed, plan.target, strict=True)):
        for row, token in enumerate(np.asarray(kept)):
            group = patches[image, [token, *np.asarray(removed)[np.asarray(target) == row]]]
            expected = np.take_along_axis(group, np.abs(group).argmax(0)[None], 0)[0]
            np.testing.assert_array_equal(features[image, row], expected)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_result_of_an_image_does_not_depend_on_its_batch(reducer):
    example = scene(2)
    plan, out = condense(reducer, example, 12)
    for image in range(2):
        tokens, signals = jax.tree.map(
            lambda leaf, image=image: leaf[image : image + 1], (example.tokens, example.signals)
        )
        single_plan, single_out = condense(reducer, example._replace(tokens=tokens, signals=signals), 12)
        np.testing.assert_array_equal(single_plan.kept[0], plan.kept[image])
        np.testing.assert_array_equal(single_plan.target[0], plan.target[image])
        np.testing.assert_array_equal(single_out.size[0] > 0, out.size[image] > 0)
        np.testing.assert_allclose(single_out.x[0], out.x[image], atol=1e-6)


@pytest.mark.parametrize(
    "reducer",
    [
        *METHODS, tc.GTP(propagation="mean"), tc.GTP(score="random", propagation="none"), tc.GTP(score="cosine_max"),
        tc.TCViT(fuse="soft", match_norm="lift"), tc.TCViT(fuse="topm", walk="katz"), tc.TCViT(fuse="single"),
    ],
    ids=str,
)  # fmt: skip
def test_jit_equals_eager(reducer):
    example = scene(3)
    plan, out = condense(reducer, example, 12)
    run = jax.jit(lambda tokens, signals: condense(reducer, example._replace(tokens=tokens, signals=signals), 12))
    plan_jit, out_jit = run(example.tokens, example.signals)
    np.testing.assert_array_equal(plan_jit.kept, plan.kept)
    np.testing.assert_allclose(out_jit.x, out.x, atol=2e-6)


@pytest.mark.parametrize("reducer", SWITCHES)
@pytest.mark.parametrize("kind", ["identical", "zero", "one zero"])
def test_degenerate_tokens_give_no_nan_and_ties_keep_the_lower_index(reducer, kind):
    x = jnp.ones((1, 21, 6)) if kind == "identical" else jnp.zeros((1, 21, 6))
    if kind == "one zero":
        x = jax.random.normal(jax.random.key(0), x.shape).at[:, 5].set(0)
    q = jnp.ones((1, 3, 21, 4))
    signals = attend(q, q, q)[1]
    flat = scene(0)._replace(tokens=Tokens.start(x, 1), signals=signals)
    plan, out = condense(reducer, flat, 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))
    tokens, score = flat.tokens.with_state(reducer.prepare(flat.tokens, flat.grid)[0]), reducer.parts.score
    ranked = np.asarray(score.rank(tokens, signals, 12))
    np.testing.assert_array_equal(plan.kept[0], split(ranked[0], 12)[0])
    context = BlockContext(patches=20, keep=12, prefix=1, heads=1, width=6, block=0, depth=1)
    # The state of the score may be computed from features too.
    has_floats = any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tokens.state))
    compares_features = has_floats or score.macs(context) != score.macs(replace(context, width=7))
    if score.signals and not (compares_features or reducer.has_padding or isinstance(reducer, tc.CubistMerge)):
        # Attention is uniform: all scores are equal.
        np.testing.assert_array_equal(plan.kept, [range(12)])


@pytest.mark.parametrize("reducer", SWITCHES)
def test_attention_to_a_single_token_gives_no_nan(reducer):
    """All tokens attend to the class token only, so that the columns of patch tokens are zero."""
    example = scene(5)
    q, k = jnp.ones((2, 3, 21, 4)), jnp.zeros((2, 3, 21, 4)).at[:, :, 0].set(1e4)
    signals = attend(q, k, q)[1]
    assert float(signals.map[:, :, 1:].max()) == 0
    plan, out = condense(reducer, example._replace(signals=signals), 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))
    if reducer.removal == "merge":
        np.testing.assert_allclose(out.size.sum(-1), example.tokens.size.sum(-1), rtol=1e-6)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_gradients_through_a_plan_equal_differences(reducer):
    example = scene(4)
    tokens = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))
    plan = reducer.plan(tokens, example.signals, 12)
    cotangent = jax.random.normal(jax.random.key(0), (2, 13 + reducer.extra_tokens, 6))
    gradient = jax.grad(lambda x: (plans.apply(plan, tokens.with_x(x)).x * cotangent).sum())(tokens.x)
    step = 1e-2 * jax.random.normal(jax.random.key(1), tokens.x.shape)
    change = ((plans.apply(plan, tokens.with_x(tokens.x + step)).x - plans.apply(plan, tokens).x) * cotangent).sum()
    # A plan is linear in the features, so that the difference is exact up to rounding.
    np.testing.assert_allclose((gradient * step).sum(), change, rtol=1e-3)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_half_precision_keeps_the_same_tokens_as_float32(reducer):
    """Signals of bfloat16 queries and keys are float32; plans do not depend on the dtype of the features."""
    example = scene(6)
    rng = np.random.default_rng(6)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 3, 21, 4)), jnp.bfloat16) for _ in range(3))
    half = attend(q, k, v)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    full = attend(*(x.astype(jnp.float32) for x in (q, k, v)))[1]
    x = example.tokens.x.astype(jnp.bfloat16)
    plan, out = condense(reducer, example._replace(tokens=example.tokens.with_x(x), signals=half), 12)
    tokens = example.tokens.with_x(x.astype(jnp.float32))
    expected, _ = condense(reducer, example._replace(tokens=tokens, signals=full), 12)
    np.testing.assert_array_equal(plan.kept, expected.kept)
    np.testing.assert_array_equal(plan.target, expected.target)
    assert out.x.dtype == jnp.bfloat16
    assert out.size.dtype == jnp.float32


@pytest.mark.parametrize("reducer", SWITCHES)
def test_sizes_of_ten_thousand_stay_finite(reducer):
    example = scene(7)
    tokens = replace(
        example.tokens, size=jnp.full_like(example.tokens.size, 10_000.0), x=example.tokens.x.astype("bfloat16")
    )
    _, out = condense(reducer, example._replace(tokens=tokens), 12)
    assert bool(jnp.isfinite(out.x).all())
    assert reducer.has_padding or bool((out.size > 0).all())
    assert bool(jnp.isfinite(jnp.log(out.size[out.size > 0])).all())
    q = jnp.ones((2, 1, 1 + out.size.shape[1], 4), jnp.bfloat16)
    bias = jnp.pad(jnp.log(out.size), ((0, 0), (1, 0)))
    values, _ = attend(q, q, q, key_bias=bias)
    np.testing.assert_allclose(values.astype(jnp.float32), 1, rtol=1e-2)


@pytest.mark.parametrize("reducer", [None, *SWITCHES])
def test_config_round_trips_through_json(reducer):
    config = json.loads(json.dumps(reducers.to_config(reducer)))
    assert reducers.from_config(config) == reducer


@pytest.mark.parametrize("reducer", SWITCHES)
def test_repr_evaluates_to_the_reducer(reducer):
    assert eval(repr(reducer), {type(reducer).__name__: type(reducer)}) == reducer


TEMPERATURE = "must be in [0.01, 1e+06]; the larger the temperature, the weaker its criterion"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "gpt"}, "unknown reducer 'gpt': did you mean 'gtp'?"),
        ({"name": "gtp", "alhpa": 1}, "unknown gtp field 'alhpa': did you mean 'alpha'?"),
        ({"name": "gtp", "graph": "spacial"}, "unknown graph 'spacial': did you mean 'spatial'?"),
        ({"name": "gtp", "score": "mixed"}, "unknown score 'mixed': did you mean 'mixed_max'?"),
        ({"name": "gtp", "propagation": "means"}, "unknown propagation 'means': did you mean 'mean'?"),
        ({"name": "gtp", "alpha": -0.1}, "alpha=-0.1: must be in [0, 1]; 0.1 is the paper's value"),
        ({"name": "gtp", "alpha": float("inf")}, "alpha=inf: must be in [0, 1]; 0.1 is the paper's value"),
        ({"name": "gtp", "neighbors": -1}, "neighbors=-1: must be >= 0"),
        ({"name": "gtp", "neighbors": 2.5}, "neighbors=2.5: must be an integer"),
        ({"name": "tcvit", "order": 2.5}, "order=2.5: must be an integer"),
        ({"name": "gtp", "attention_keep": 0}, "attention_keep=0: must be in (0, 1]; 1.0 keeps all entries"),
        ({"name": "tcvit", "order": 0}, "order=0: must be in [1, 100]"),
        (
            {"name": "tcvit", "balance": 1.5},
            "balance=1.5: must be in [0, 1]; 0 is dominance only, 1 is connectivity only",
        ),
        ({"name": "tcvit", "walk": "kats"}, "unknown walk 'kats': did you mean 'katz'?"),
        ({"name": "tcvit", "fuse": "top"}, "unknown fuse 'top': did you mean 'topm'?"),
        ({"name": "tcvit", "gamma": 2}, "gamma=2: must be in [0, 1]; 0 equals order=1, 1 equals walk='cumulative'"),
        (
            {"name": "tcvit", "temperature": 0},
            "temperature=0: must be finite and > 0; use fuse='hard' for the limit at 0",
        ),
        ({"name": "tcvit", "top_m": 0}, "top_m=0: must be >= 1; use fuse='drop' to drop removed tokens"),
        (
            {"name": "tcvit", "fuse_weight": "score", "score_norm": "zscore"},
            "fuse_weight='score' cannot be combined with score_norm='zscore': weights must be >= 0; set score_norm='sum'",
        ),
        (
            {"name": "tcvit", "dominance": "cls_walk", "graph": "patch"},
            "dominance='cls_walk' cannot be combined with graph='patch': set graph='full', which has the class token",
        ),
        ({"name": "tomme"}, "unknown reducer 'tomme': did you mean 'tome'?"),
        (
            {"name": "tome", "fuse": "hard"},
            "unknown tome field 'fuse': must be one of attention_keep, proportional_attention",
        ),
        ({"name": "evit", "attention_keep": 2}, "attention_keep=2: must be in (0, 1]; 1.0 keeps all entries"),
        ({"name": "diffrate", "pruned": 1.5}, "pruned=1.5: must be in [0, 1], or a list with one count per block"),
        ({"name": "diffrate", "pruned": [2, -1]}, "pruned=(2, -1): must be >= 0 in every block"),
        ({"name": "diffrate", "pruned": [2, 0.5]}, "pruned=0.5: must be an integer"),
        ({"name": "gtp", "alpha": "half"}, "alpha='half': must be a number; the default is 0.1"),
        ({"name": "evit", "fuse": "drop"}, "fuse='drop': must be True or False; the default is True"),
        (
            {"name": "tome", "proportional_attention": "no"},
            "proportional_attention='no': must be True or False; the default is True",
        ),
        ({"name": "representationshift", "fuse": "merge"}, "unknown fuse 'merge': must be one of drop, hard"),
        ({"name": "cubistmerge", "metric": "values"}, "unknown metric 'values': did you mean 'features'?"),
        ({"name": "cross", "score": [1]}, "score=[1]: must be a string; the default is 'tcvit'"),
        ({"name": "pitome", "margin": float("nan")}, "margin=nan: must be in [-1, 1]; it is compared with cosines"),
        ({"name": "pitome", "alpha": 0}, "alpha=0: must be in (0, 100]"),
        ({"name": "dpcknn", "neighbors": 0}, "neighbors=0: must be >= 1"),
        ({"name": "dpcknn", "neighbors": 1.5}, "neighbors=1.5: must be an integer"),
        ({"name": "kmedoids", "iterations": -1}, "iterations=-1: must be in [0, 100]"),
        ({"name": "kmedoids", "iterations": 1.5}, "iterations=1.5: must be an integer"),
        ({"name": "mctf", "similarity": 0}, f"similarity=0: {TEMPERATURE}"),
        ({"name": "mctf", "importance": -1}, f"importance=-1: {TEMPERATURE}"),
        ({"name": "mctf", "size": 0}, f"size=0: {TEMPERATURE}"),
        ({"name": "tofu", "prune_until": 2}, "prune_until=2: must be in [0, 1]; 0 merges in all blocks, 1 in none"),
        ({"name": "cross", "score": "pitomme"}, "unknown score 'pitomme': did you mean 'pitome'?"),
        ({"name": "cross", "match": "cosin"}, "unknown match 'cosin': did you mean 'cosine'?"),
        ({"name": "cross", "fuse": "sof"}, "unknown fuse 'sof': did you mean 'soft'?"),
    ],
)
def test_invalid_configs_name_the_value_and_the_condition(config, message):
    with pytest.raises(tc.InputError) as error:
        reducers.from_config(config)
    assert str(error.value) == message

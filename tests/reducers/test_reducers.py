"""What holds for every reducer and switch: parametrised tests, which a new reducer joins by itself."""

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
from tests.reducers.scenes import KEEP, at_least, attend, condense, scene
from tests.switches import METHODS, REDUCERS_AND_SWITCHES, SWITCHES


@pytest.mark.parametrize("reducer", SWITCHES)
@pytest.mark.parametrize("keep", [1, KEEP])
def test_a_plan_splits_the_patches(reducer, keep):
    drawn = scene(0, prefix=2)
    check_split(reducer, drawn, at_least(reducer, drawn, keep))


# Batch, prefix, height and width, and how many tokens stay if the method can remove the others.
ODD_SHAPES = [(1, 5, 2, 2, 1), (3, 3, 4, 3, 7)]


@settings(max_examples=6)
@given(st.sampled_from(REDUCERS_AND_SWITCHES), st.integers(0, 999), st.sampled_from(ODD_SHAPES), st.integers(1, 2))
@pytest.mark.slow
def test_a_plan_splits_patches_of_any_shape(reducer, seed, shape, class_tokens):
    batch, prefix, height, width, keep = shape
    patches = height * width
    if isinstance(reducer, tc.GTP):
        reducer = replace(reducer, neighbors=min(reducer.neighbors, patches - 1))
    elif patches <= tc.GTP.neighbors:
        hypothesis.assume("graph" not in vars(reducer).values())
    drawn = scene(seed, prefix, batch, (height, width), class_tokens=class_tokens)
    check_split(reducer, drawn, at_least(reducer, drawn, keep))


def check_split(reducer, drawn, keep):
    batch, patches, prefix = *drawn.tokens.origin.shape, drawn.tokens.prefix
    plan, out = condense(reducer, drawn, keep)
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
    # Prefix tokens pass untouched, and are nobody's destination.
    np.testing.assert_array_equal(out.x[:, :prefix], drawn.tokens.x[:, :prefix])
    # Sizes never shrink, but for what only fills the width: it has none, and no patch.
    before = np.take_along_axis(np.asarray(drawn.tokens.size), np.asarray(plan.kept), axis=1)
    valid = np.ones((batch, keep), bool) if plan.valid is None else np.asarray(plan.valid)
    assert reducer.has_padding or valid.all()
    assert valid.any(-1).all()
    assert (np.asarray(out.size[:, :keep])[valid] >= before[valid] * (1 - 1e-6)).all()
    assert (np.asarray(out.size[:, :keep])[~valid] == 0).all()
    stayed = np.take_along_axis(np.asarray(out.slots), np.asarray(plan.kept), axis=1)
    np.testing.assert_array_equal(stayed, np.where(valid, np.arange(keep), -1))
    # A removed token sits where most of it went, and its patches with it.
    if plan.share is None:
        assert (np.asarray(plan.target) == -1).all()
    else:
        at_target = np.take_along_axis(np.asarray(plan.share), np.maximum(plan.target, 0)[:, None, :], axis=1)[:, 0]
        np.testing.assert_array_equal(np.where(np.asarray(plan.target) < 0, 0, at_target), plan.share.max(1))
    went = np.take_along_axis(np.asarray(out.slots), np.asarray(plan.removed), axis=1)
    np.testing.assert_array_equal(went, plan.target)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_the_fate_of_removed_tokens_is_what_the_reducer_says(reducer):
    drawn = scene(0, class_tokens=1)
    keep = at_least(reducer, drawn, KEEP)
    plan, out = condense(reducer, drawn, keep)
    tokens, patches = drawn.tokens, np.asarray(drawn.tokens.patches)
    total = np.asarray(out.size.sum(-1)) / np.asarray(tokens.size.sum(-1))
    stayed = np.take_along_axis(patches, np.asarray(plan.kept)[..., None], 1)
    if reducer.removal == "drop":
        assert plan.self_weight is plan.weight is plan.share is None
        np.testing.assert_array_equal(out.patches, stayed)
        # Of every image all rows hold a patch, but for those that only fill the width.
        held = [set(np.asarray(slots).tolist()) - {-1} for slots in out.slots]
        assert held == [set(np.flatnonzero(size)) for size in np.asarray(out.size)]
        assert reducer.has_padding or held == [set(range(keep))] * 2
    elif reducer.removal == "merge":
        # Nothing is lost, every weight is that of a mean, and no mean leaves the range of what it is made of.
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert (np.asarray(out.slots) >= 0).all()
        if plan.weight is None:
            np.testing.assert_array_equal(out.patches, stayed)
            return
        assert (np.asarray(plan.weight) >= 0).all()
        stretch = np.asarray(plan.self_weight + plan.weight.sum(-1))
        mean = np.asarray(out.patches) / stretch[..., None]
        assert (mean <= patches.max(1, keepdims=True) + 1e-6).all()
        assert (mean >= patches.min(1, keepdims=True) - 1e-6).all()
        # One that is not a mean has its direction, and is as long as the longest that it is made of.
        length = np.linalg.norm(patches, axis=-1)
        others = np.where(plan.weight > 0, np.take_along_axis(length, np.asarray(plan.removed), 1)[:, None], 0).max(-1)
        longest = np.maximum(np.take_along_axis(length, np.asarray(plan.kept), 1), others)
        as_long = np.isclose(np.linalg.norm(out.patches, axis=-1), longest, rtol=1e-5)
        assert (np.isclose(stretch, 1, rtol=1e-6) | as_long).all()
    elif plan.self_weight is not None:
        # A mean too, though not all of what leaves passes on.
        np.testing.assert_allclose(plan.self_weight + plan.weight.sum(-1), 1, rtol=1e-6)
        assert (total < 1).all()


@pytest.mark.parametrize("reducer", SWITCHES)
def test_an_image_alone_gives_what_it_gives_in_a_batch(reducer):
    drawn = scene(2)
    plan, out = condense(reducer, drawn, 12)
    for image in range(2):
        tokens, signals = jax.tree.map(lambda leaf, image=image: leaf[image : image + 1], (drawn.tokens, drawn.signals))
        plan_alone, out_alone = condense(reducer, drawn._replace(tokens=tokens, signals=signals), 12)
        np.testing.assert_array_equal(plan_alone.kept[0], plan.kept[image])
        np.testing.assert_array_equal(plan_alone.target[0], plan.target[image])
        np.testing.assert_array_equal(out_alone.size[0] > 0, out.size[image] > 0)
        np.testing.assert_allclose(out_alone.x[0], out.x[image], atol=1e-6)


@pytest.mark.parametrize(
    "reducer",
    [
        *METHODS, tc.GTP(propagation="mean"), tc.GTP(score="random", propagation="none"), tc.GTP(score="cosine_max"),
        tc.TCViT(fuse="soft", match_norm="lift"), tc.TCViT(fuse="topm", walk="katz"), tc.TCViT(fuse="single"),
    ],
    ids=str,
)  # fmt: skip
def test_jit_equals_eager(reducer):
    drawn = scene(3)
    plan, out = condense(reducer, drawn, 12)
    run = jax.jit(lambda tokens, signals: condense(reducer, drawn._replace(tokens=tokens, signals=signals), 12))
    plan_jit, out_jit = run(drawn.tokens, drawn.signals)
    np.testing.assert_array_equal(plan_jit.kept, plan.kept)
    np.testing.assert_allclose(out_jit.x, out.x, atol=2e-6)


@pytest.mark.parametrize("reducer", SWITCHES)
@pytest.mark.parametrize("tokens_are", ["identical", "zero", "one of them zero"])
def test_degenerate_tokens_give_no_nan_and_ties_keep_the_lower_index(reducer, tokens_are):
    x = jnp.ones((1, 21, 6)) if tokens_are == "identical" else jnp.zeros((1, 21, 6))
    if tokens_are == "one of them zero":
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
    compares_tokens = score.macs(context) != score.macs(replace(context, width=7))
    if score.signals and not compares_tokens and not reducer.has_padding:
        # Flat attention: every score is equal.
        np.testing.assert_array_equal(plan.kept, [range(12)])


@pytest.mark.parametrize("reducer", SWITCHES)
def test_attention_on_one_token_alone_gives_no_nan(reducer):
    """Saturated: everybody attends to the class token, so that all columns of patches are zero."""
    drawn = scene(5)
    q, k = jnp.ones((2, 3, 21, 4)), jnp.zeros((2, 3, 21, 4)).at[:, :, 0].set(1e4)
    signals = attend(q, k, q)[1]
    assert float(signals.map[:, :, 1:].max()) == 0
    plan, out = condense(reducer, drawn._replace(signals=signals), 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))
    if reducer.removal == "merge":
        np.testing.assert_allclose(out.size.sum(-1), drawn.tokens.size.sum(-1), rtol=1e-6)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_gradients_through_a_plan_are_those_of_its_matrix(reducer):
    drawn = scene(4)
    tokens = drawn.tokens.with_state(reducer.prepare(drawn.tokens, drawn.grid))
    plan = reducer.plan(tokens, drawn.signals, 12)
    cotangent = jax.random.normal(jax.random.key(0), (2, 13 + reducer.extra_tokens, 6))
    gradient = jax.grad(lambda x: (plans.apply(plan, tokens.with_x(x)).x * cotangent).sum())(tokens.x)
    step = 1e-2 * jax.random.normal(jax.random.key(1), tokens.x.shape)
    change = ((plans.apply(plan, tokens.with_x(tokens.x + step)).x - plans.apply(plan, tokens).x) * cotangent).sum()
    # A plan is linear in the features: the difference is exact but for rounding.
    np.testing.assert_allclose((gradient * step).sum(), change, rtol=1e-3)


@pytest.mark.parametrize("reducer", SWITCHES)
def test_half_precision_ranks_as_float32_does_on_the_same_attention(reducer):
    """Signals come in float32 from bfloat16 queries and keys; plans ignore the dtype of the features."""
    drawn = scene(6)
    rng = np.random.default_rng(6)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 3, 21, 4)), jnp.bfloat16) for _ in range(3))
    half = attend(q, k, v)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    full = attend(*(x.astype(jnp.float32) for x in (q, k, v)))[1]
    x = drawn.tokens.x.astype(jnp.bfloat16)
    plan, out = condense(reducer, drawn._replace(tokens=drawn.tokens.with_x(x), signals=half), 12)
    tokens = drawn.tokens.with_x(x.astype(jnp.float32))
    expected, _ = condense(reducer, drawn._replace(tokens=tokens, signals=full), 12)
    np.testing.assert_array_equal(plan.kept, expected.kept)
    np.testing.assert_array_equal(plan.target, expected.target)
    assert out.x.dtype == jnp.bfloat16
    assert out.size.dtype == jnp.float32


@pytest.mark.parametrize("reducer", SWITCHES)
def test_sizes_of_ten_thousand_stay_finite(reducer):
    drawn = scene(7)
    heavy = replace(drawn.tokens, size=jnp.full_like(drawn.tokens.size, 10_000.0), x=drawn.tokens.x.astype("bfloat16"))
    _, out = condense(reducer, drawn._replace(tokens=heavy), 12)
    assert bool(jnp.isfinite(out.x).all())
    assert reducer.has_padding or bool((out.size > 0).all())
    assert bool(jnp.isfinite(jnp.log(out.size[out.size > 0])).all())
    q = jnp.ones((2, 1, 1 + out.size.shape[1], 4), jnp.bfloat16)
    bias = jnp.pad(jnp.log(out.size), ((0, 0), (1, 0)))
    values, _ = attend(q, q, q, key_bias=bias)
    np.testing.assert_allclose(values.astype(jnp.float32), 1, rtol=1e-2)


@pytest.mark.parametrize("reducer", [None, *SWITCHES])
def test_config_round_trip_through_json(reducer):
    config = json.loads(json.dumps(reducers.to_config(reducer)))
    assert reducers.from_config(config) == reducer


@pytest.mark.parametrize("reducer", SWITCHES)
def test_a_reducer_prints_as_what_makes_it_again(reducer):
    assert eval(repr(reducer), {type(reducer).__name__: type(reducer)}) == reducer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "gpt"}, "unknown reducer 'gpt': did you mean 'gtp'?"),
        ({"name": "gtp", "alhpa": 1}, "unknown field of reducer 'gtp': 'alhpa': did you mean 'alpha'?"),
        ({"name": "gtp", "graph": "spacial"}, "unknown graph 'spacial': did you mean 'spatial'?"),
        ({"name": "gtp", "score": "mixed"}, "unknown score 'mixed': did you mean 'mixed_max'?"),
        ({"name": "gtp", "propagation": "means"}, "unknown propagation 'means': did you mean 'mean'?"),
        ({"name": "gtp", "alpha": -0.1}, "alpha=-0.1 is not a part of a token, 0 or more: use 0.1"),
        ({"name": "gtp", "alpha": float("inf")}, "alpha=inf is not a part of a token, 0 or more: use 0.1"),
        ({"name": "gtp", "neighbors": -1}, "neighbors=-1 is negative: use 8, or graph='spatial' for none"),
        ({"name": "gtp", "neighbors": 2.5}, "neighbors=2.5: must be an integer"),
        ({"name": "tcvit", "order": 2.5}, "order=2.5: must be an integer"),
        ({"name": "gtp", "attention_keep": 0}, "attention_keep=0 is not in (0, 1]: 1.0 keeps every entry"),
        ({"name": "tcvit", "order": 0}, "order=0 is no walk: the shortest has 1 step"),
        (
            {"name": "tcvit", "balance": 1.5},
            "balance=1.5 is not between 0 (dominance alone) and 1 (connectivity alone)",
        ),
        ({"name": "tcvit", "walk": "kats"}, "unknown walk 'kats': did you mean 'katz'?"),
        ({"name": "tcvit", "fuse": "top"}, "unknown fuse 'top': did you mean 'topm'?"),
        ({"name": "tcvit", "gamma": 2}, "gamma=2 is not between 0 (order 1) and 1 (no discount)"),
        ({"name": "tcvit", "temperature": 0}, "temperature=0 is not positive: use fuse='hard' for its limit"),
        ({"name": "tcvit", "top_m": 0}, "top_m=0 fuses into no token: use fuse='drop'"),
        (
            {"name": "tcvit", "fuse_weight": "score", "score_norm": "zscore"},
            "fuse_weight='score' needs scores that are not negative, and score_norm='zscore': use 'sum'",
        ),
        (
            {"name": "tcvit", "dominance": "cls_walk", "graph": "patch"},
            "dominance='cls_walk' starts on the class token, and graph='patch': use graph='full'",
        ),
        ({"name": "tomme"}, "unknown reducer 'tomme': did you mean 'tome'?"),
        (
            {"name": "tome", "fuse": "hard"},
            "unknown field of reducer 'tome': 'fuse': must be one of attention_keep, proportional_attention",
        ),
        ({"name": "evit", "attention_keep": 2}, "attention_keep=2 is not in (0, 1]: 1.0 keeps every entry"),
        (
            {"name": "diffrate", "pruned": 1.5},
            "pruned=1.5 is not a share between 0 and 1, nor a list with a number per block",
        ),
        ({"name": "diffrate", "pruned": [2, -1]}, "pruned=(2, -1) holds a negative number: use 0 or more"),
        ({"name": "diffrate", "pruned": [2, 0.5]}, "pruned=0.5: must be an integer"),
        ({"name": "gtp", "alpha": "half"}, "alpha takes a number such as 0.1, and was given 'half'"),
        ({"name": "evit", "fuse": "drop"}, "fuse takes True or False, and was given 'drop'"),
        (
            {"name": "tome", "proportional_attention": "no"},
            "proportional_attention takes True or False, and was given 'no'",
        ),
        ({"name": "cross", "score": [1]}, "score takes a name such as 'tcvit', and was given [1]"),
        ({"name": "pitome", "margin": float("nan")}, "margin=nan is no cosine, -1 to 1: use 0.75"),
        ({"name": "pitome", "alpha": 0}, "alpha=0 is not positive: use 1.0"),
        ({"name": "dpcknn", "neighbors": 0}, "neighbors=0 leaves a token without itself: use 5"),
        ({"name": "dpcknn", "neighbors": 1.5}, "neighbors=1.5: must be an integer"),
        ({"name": "kmedoids", "iterations": -1}, "iterations=-1 is negative: use 3"),
        ({"name": "kmedoids", "iterations": 1.5}, "iterations=1.5: must be an integer"),
        ({"name": "mctf", "similarity": 0}, "similarity=0 is no temperature: use a positive number"),
        ({"name": "mctf", "importance": -1}, "importance=-1 is no temperature: use a positive number"),
        ({"name": "mctf", "size": 0}, "size=0 is no temperature: use a positive number"),
        (
            {"name": "tofu", "prune_until": 2},
            "prune_until=2 is not between 0 (merge in all blocks) and 1 (in none)",
        ),
        ({"name": "cross", "score": "pitomme"}, "unknown score 'pitomme': did you mean 'pitome'?"),
        ({"name": "cross", "match": "cosin"}, "unknown match 'cosin': did you mean 'cosine'?"),
        ({"name": "cross", "fuse": "sof"}, "unknown fuse 'sof': did you mean 'soft'?"),
    ],
)
def test_mistakes_name_the_value(config, message):
    with pytest.raises(tc.InputError) as caught:
        reducers.from_config(config)
    assert str(caught.value) == message

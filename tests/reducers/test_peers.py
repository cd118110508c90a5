"""Baselines against references of their formulas over two blocks, and properties of single methods."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers import REDUCERS
from tcvit_jax.reducers.saliencymerging import contrast
from tcvit_jax.reducers.uniform import spread_order
from tests.reducers import peers
from tests.reducers.scenes import KEEP, condense, scene

# Every reducer with a reference in `peers.py`, some of them with other values as well.
PEERS = [
    *(kind() for name, kind in REDUCERS.items() if hasattr(peers, name)),
    tc.EViT(fuse=False), tc.ToFu(prune_until=1), tc.PiToMe(margin=0.3, alpha=0.5), tc.DiffRate(pruned=[3, 0, 2, 2]),
    tc.DiffRate(pruned=0.0), tc.DPCKNN(neighbors=2), tc.KMedoids(iterations=0),
    tc.MCTF(similarity=2.0, importance=1.0, size=3.0), tc.SaliencyMerging(alpha=0.0), tc.SaliencyMerging(alpha=0.3),
    tc.RepresentationShift(fuse="hard"), tc.CubistMerge(metric="keys"),
]  # fmt: skip
# Reducers with their own test file, or with parts that are tested elsewhere.
TESTED_ELSEWHERE = {"gtp", "tcvit", "random", "cross"}


def test_every_reducer_has_a_reference():
    assert {name for name in REDUCERS if not hasattr(peers, name)} == TESTED_ELSEWHERE


def reference(reducer, case):
    return getattr(peers, type(reducer).__name__.lower())(case, reducer)


def make_case(example, image, keep, tokens, position, x0=None, grid=(4, 5)):
    x0 = tokens.patches if x0 is None else x0
    return peers.Case(
        x=np.asarray(tokens.patches[image], np.float64), size=np.asarray(tokens.size[image], np.float64),
        maps=example.maps[image], keys=example.keys[image], values=example.values[image], keep=keep, prefix=tokens.prefix,
        classes=tokens.class_tokens, block=tokens.block, depth=tokens.depth, position=position, grid=grid,
        origin=np.asarray(tokens.origin[image]).tolist(), x0=np.asarray(x0[image], np.float64),
    )  # fmt: skip


def check(expected, plan, out, image):
    np.testing.assert_array_equal(plan.kept[image], expected.kept)
    np.testing.assert_allclose(out.patches[image], expected.features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.size[image], expected.sizes, rtol=1e-5)


# One prefix token (class) in the first half of the blocks, two (with distillation) in the second half. The shapes are those
# of other tests, whose compiled operations are reused.
@pytest.mark.parametrize(("prefix", "block"), [(1, 0), (2, 2)])
@pytest.mark.parametrize("reducer", PEERS, ids=repr)
@settings(max_examples=4)
@given(st.integers(0, 9999))
def test_two_blocks_equal_the_reference(reducer, prefix, block, seed):
    keep = KEEP
    example = scene(seed, prefix, class_tokens=prefix, block=block, depth=4)
    tokens = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))
    out, plan = reducer.reduce(tokens, example.signals, keep)
    left = keep + reducer.extra_tokens
    next_scene = scene(seed + 1, prefix, grid=(1, left), class_tokens=prefix)
    tokens2, keep2 = (
        replace(out, block=out.block + 1),
        left - reducer.lower_count(left, prefix, left // 3, example.grid),
    )
    out2, plan2 = reducer.reduce(tokens2, next_scene.signals, keep2)
    for image in range(2):
        expected = reference(reducer, make_case(example, image, keep, example.tokens, list(range(20))))
        check(expected, plan, out, image)
        case2 = make_case(next_scene, image, keep2, tokens2, expected.position, example.tokens.patches)
        expected2 = reference(reducer, case2)
        check(expected2, plan2, out2, image)


def test_saliency_without_class_attention_needs_no_class_token():
    model = tc.create_model(
        "deit_tiny_patch16_224", tc.SaliencyMerging(alpha=0.0), 8, class_token=False, global_pool="avg"
    )
    assert model.removed == (8,) * 12
    # Equal patches, and a single one, have no contrast.
    for grid in ((1, 1), (2, 3)):
        np.testing.assert_array_equal(contrast(jnp.ones((2, grid[0] * grid[1], 6)), grid), 0)


def test_score_mean_keeps_tokens_of_infinite_score_and_ignores_negative_ones():
    """The second half of a bipartite score is infinite; the order of farthest-point sampling is at most 0."""
    example = scene(0)
    for score in ("tome", "uniform"):
        plan, out = condense(tc.Cross(score=score, match="features", fuse="score_mean"), example, KEEP)
        rows = np.asarray(plan.kept)[..., None]
        np.testing.assert_allclose(out.patches, np.take_along_axis(np.asarray(example.tokens.patches), rows, 1))
        np.testing.assert_allclose(out.size.sum(-1), example.tokens.size.sum(-1), rtol=1e-5)


def test_ward_prefers_small_tokens_and_breaks_ties_by_row():
    """With equal cosines, the smallest tokens merge; with equal keys, every cost is 0."""
    example = scene(0)
    keys = jnp.eye(21)[None].repeat(2, 0)
    size = jnp.tile(jnp.arange(1.0, 21.0), (2, 1))
    tokens = replace(example.tokens, size=size)
    plan, out = condense(tc.WardToMe(), example._replace(tokens=tokens, signals=Signals(keys=keys)), 16)
    # All cosines are 0. The class token is in the first half, and so are the patches 1, 3, 5, ...; patch 0 is smallest.
    np.testing.assert_array_equal(plan.removed[0], [1, 3, 5, 7])
    np.testing.assert_array_equal(out.size[0, 0], 1 + 2 + 4 + 6 + 8)
    equal = example._replace(signals=Signals(keys=jnp.ones((2, 21, 4))))
    plan, out = condense(tc.WardToMe(), equal, 16)
    np.testing.assert_array_equal(plan.removed[0], [13, 15, 17, 19])
    np.testing.assert_array_equal(plan.target[0], 0)


@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (1, 9), (3, 4), (6, 7), (14, 14)])
def test_uniform_equals_farthest_point_sampling(grid):
    np.testing.assert_array_equal(spread_order(grid), peers.farthest_point_order(grid))


def test_uniform_keeps_the_first_tokens_of_the_order():
    example = scene(0)
    for keep in (1, 13):
        plan, out = condense(tc.Uniform(), example, keep)
        check(peers.uniform(make_case(example, 0, keep, example.tokens, None), None), plan, out, 0)


def test_random_depends_on_the_seed_and_not_on_the_image():
    example = scene(0)
    plan, _ = condense(tc.Random(), example, 10)
    other, _ = condense(tc.Random(seed=1), example, 10)
    np.testing.assert_array_equal(plan.kept[0], plan.kept[1])
    assert set(np.asarray(plan.kept[0]).tolist()) != set(np.asarray(other.kept[0]).tolist())


def test_tome_alternates_in_its_own_order():
    """The halves of the second block are not those of the raster order of the survivors."""
    example = scene(3)
    _, out = condense(tc.ToMe(), example, 14)
    score_state, _ = out.state
    assert sorted(np.asarray(score_state[0]).tolist()) == list(range(14))
    assert np.asarray(score_state[0]).tolist() != list(range(14))


def test_ats_keeps_fewer_tokens_in_images_with_few_significant_tokens():
    """The class token attends to patches 4 and 8 only; the first points are nearest to the cumulative value before them."""
    example = scene(0)
    row = np.zeros((2, 3, 21), np.float32)
    row[:, :, [5, 9]] = 0.5
    signals = Signals(class_row=jnp.asarray(row), value_norm=jnp.ones((2, 3, 21)))
    plan, out = condense(tc.ATS(), example._replace(signals=signals), 8)
    np.testing.assert_array_equal(np.asarray(out.origin[0])[np.asarray(out.size[0]) > 0], [0, 4, 8])
    np.testing.assert_array_equal(plan.valid.sum(-1), 3)
    # The patches of padding are lost.
    padding = np.asarray(plan.kept[0])[~np.asarray(plan.valid[0])]
    assert (np.asarray(out.slots[0])[padding] == -1).all()


@pytest.mark.parametrize(
    ("reducer", "patches", "prefix", "limit"),
    [(tc.ToMe(), 9, 1, 4), (tc.PiToMe(), 8, 0, 4), (tc.MCTF(), 9, 1, 7), (tc.MCTF(), 8, 2, 7), (tc.TopK(), 9, 1, 8)],
)
def test_removing_more_than_the_method_can_is_rejected(reducer, patches, prefix, limit):
    assert reducer.max_removable(patches, prefix) == limit
    sizes = {"img_size": (4, 4 * patches), "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
    tc.create_model("deit_tiny_patch16_224", reducer, [limit], **sizes)
    with pytest.raises(tc.InputError, match=f"at most {limit}|must be <= {limit}"):
        tc.create_model("deit_tiny_patch16_224", reducer, [limit + 1], **sizes)


OTHER_METHOD = "use tc.GTP() or tc.ToMe()"
OTHER_PARTS = "set score='gtp' and fuse='hard', for example"


@pytest.mark.parametrize(
    ("reducer", "hint"),
    [
        *((reducer, OTHER_METHOD) for reducer in (tc.EViT(), tc.TopK(), tc.DiffRate(), tc.TPS(), tc.ATS())),
        (tc.SaliencyMerging(), "set alpha=0.0"),
        *((tc.Cross(score=score), OTHER_PARTS) for score in ("cls", "ats", "tcvit")),
        (tc.Cross(score="random", fuse="class_token"), OTHER_PARTS),
    ],
    ids=repr,
)
def test_methods_that_need_a_class_token_reject_models_without(reducer, hint):
    with pytest.raises(tc.InputError) as error:
        tc.create_model("deit_tiny_patch16_224", reducer, 8, class_token=False, global_pool="avg")
    assert str(error.value) == f"reducer={reducer!r} requires class_token=True: {hint}"


def test_bipartite_method_accepts_a_single_remaining_token():
    assert tc.create_model("deit_tiny_patch16_224", tc.MCTF(), [195, 0], depth=2).removed == (195, 0)


def test_counts_of_pruned_tokens_must_fit_the_schedule():
    reducer = tc.DiffRate(pruned=[3, 0, 9])
    assert [reducer.count(block, 9) for block in range(3)] == [3, 0, 9]
    # A block that removes nothing needs no count.
    tc.create_model("deit_tiny_patch16_224", reducer, [3, 1, 9, 0], depth=4)
    for block, removed in ((2, [9, 9, 8, 0]), (3, [9, 9, 9, 9])):
        with pytest.raises(tc.InputError) as error:
            tc.create_model("deit_tiny_patch16_224", reducer, removed, depth=4)
        assert str(error.value) == (
            f"pruned=[3, 0, 9]: must be a list with a count <= {removed[block]} for block {block}; "
            f"the schedule removes {removed[block]} tokens there"
        )
    with pytest.raises(tc.InputError, match="pruned: expected at most 2 counts, one per block, got 3"):
        tc.create_model("deit_tiny_patch16_224", reducer, [3, 1], depth=2)
    assert tc.DiffRate(pruned=0.3).count(0, 9) == 2


@pytest.mark.parametrize("reducer", [tc.ToMe(), tc.ToFu(), tc.PiToMe(), tc.MCTF(), tc.WardToMe()], ids=repr)
@pytest.mark.parametrize(("prefix", "patches"), [(1, 20), (2, 3)])
def test_bipartite_methods_merge_without_loss_at_their_limit(reducer, prefix, patches):
    """At the limit, all tokens of one half that can be removed are merged into the other."""
    example = scene(0, prefix, grid=(1, patches))
    _, out = condense(reducer, example, patches - reducer.max_removable(patches, prefix))
    np.testing.assert_allclose(out.size.sum(-1), example.tokens.size.sum(-1), rtol=1e-5)
    assert (np.asarray(out.slots) >= 0).all()


@pytest.mark.parametrize("reducer", [kind() for kind in (tc.ToFu, tc.TPS, tc.DiffRate)], ids=repr)
def test_plan_weights_pass_no_gradient_to_features(reducer):
    """Although the match or a norm depends on the features. The block is a late one, in which ToFu merges."""
    example = scene(1, block=3, depth=4)
    prepared = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))

    def weights(x):
        plan = reducer.plan(prepared.with_x(x), example.signals, 12)
        values = [value for value in (plan.weight, plan.self_weight, plan.share) if value is not None]
        return sum(((value**2).sum() for value in values), start=0 * x.sum())

    assert float(jnp.abs(jax.grad(weights)(prepared.x)).max()) == 0

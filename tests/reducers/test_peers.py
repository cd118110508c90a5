"""The baselines against their formulas, two blocks one after the other, and what is special about each."""

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
from tcvit_jax.reducers.uniform import spread_order
from tests.reducers import peers
from tests.reducers.scenes import KEEP, condense, scene

# Every reducer with a reference in `peers.py`, and some of them with other values.
PEERS = [
    *(kind() for name, kind in REDUCERS.items() if hasattr(peers, name)),
    tc.EViT(fuse=False), tc.ToFu(prune_until=1), tc.PiToMe(margin=0.3, alpha=0.5), tc.DiffRate(pruned=[3, 0, 2, 2]),
    tc.DiffRate(pruned=0.0), tc.DPCKNN(neighbors=2), tc.KMedoids(iterations=0),
    tc.MCTF(similarity=2.0, importance=1.0, size=3.0),
]  # fmt: skip
# Held to a formula by a test file of their own, or made of parts that are.
ELSEWHERE = {"gtp", "tcvit", "random", "cross"}


def test_every_reducer_has_a_reference():
    assert {name for name in REDUCERS if not hasattr(peers, name)} == ELSEWHERE


def reference(reducer, of):
    return getattr(peers, type(reducer).__name__.lower())(of, reducer)


def case(drawn, image, keep, tokens, place, grid=(4, 5)):
    return peers.Case(
        x=np.asarray(tokens.patches[image], np.float64), size=np.asarray(tokens.size[image], np.float64),
        maps=drawn.maps[image], keys=drawn.keys[image], values=drawn.values[image], keep=keep, prefix=tokens.prefix,
        classes=tokens.class_tokens, block=tokens.block, depth=tokens.depth, place=place, grid=grid,
        origin=np.asarray(tokens.origin[image]).tolist(),
    )  # fmt: skip


def check(found, plan, out, image):
    np.testing.assert_array_equal(plan.kept[image], found.kept)
    np.testing.assert_allclose(out.patches[image], found.features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.size[image], found.sizes, rtol=1e-5)


# A class token in the first half of the blocks, and a distillation token too in the second. Shapes are those of other
# tests, which have compiled their operations already.
@pytest.mark.parametrize(("prefix", "block"), [(1, 0), (2, 2)])
@pytest.mark.parametrize("reducer", PEERS, ids=repr)
@settings(max_examples=4)
@given(st.integers(0, 9999))
def test_two_blocks_equal_the_reference(reducer, prefix, block, seed):
    keep = KEEP
    drawn = scene(seed, prefix, class_tokens=prefix, block=block, depth=4)
    tokens = drawn.tokens.with_state(reducer.prepare(drawn.tokens, drawn.grid))
    out, plan = reducer.reduce(tokens, drawn.signals, keep)
    left = keep + reducer.extra_tokens
    again = scene(seed + 1, prefix, grid=(1, left), class_tokens=prefix)
    second, keep2 = replace(out, block=out.block + 1), left - left // 3
    out2, plan2 = reducer.reduce(second, again.signals, keep2)
    for image in range(2):
        found = reference(reducer, case(drawn, image, keep, drawn.tokens, list(range(20))))
        check(found, plan, out, image)
        found2 = reference(reducer, case(again, image, keep2, second, found.place))
        check(found2, plan2, out2, image)


@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (1, 9), (3, 4), (6, 7), (14, 14)])
def test_uniform_equals_farthest_point_sampling(grid):
    np.testing.assert_array_equal(spread_order(grid), peers.farthest_first(grid))


def test_uniform_keeps_the_first_of_that_order():
    drawn = scene(0)
    for keep in (1, 13):
        plan, out = condense(tc.Uniform(), drawn, keep)
        check(peers.uniform(case(drawn, 0, keep, drawn.tokens, None), None), plan, out, 0)


def test_random_keeps_the_same_tokens_in_every_image_and_others_with_another_seed():
    drawn = scene(0)
    plan, _ = condense(tc.Random(), drawn, 10)
    other, _ = condense(tc.Random(seed=1), drawn, 10)
    np.testing.assert_array_equal(plan.kept[0], plan.kept[1])
    assert set(np.asarray(plan.kept[0]).tolist()) != set(np.asarray(other.kept[0]).tolist())


def test_tome_follows_its_own_order_and_not_the_grid():
    """The halves of a second block are not those of the survivors' raster order."""
    drawn = scene(3)
    _, out = condense(tc.ToMe(), drawn, 14)
    of_score, _ = out.state
    assert sorted(np.asarray(of_score[0]).tolist()) == list(range(14))
    assert np.asarray(of_score[0]).tolist() != list(range(14))


def test_ats_leaves_fewer_tokens_where_few_matter_and_nobody_reads_the_rest():
    """The class token attends to patches 4 and 8 alone; the first points are nearest to what is before them."""
    drawn = scene(0)
    row = np.zeros((2, 3, 21), np.float32)
    row[:, :, [5, 9]] = 0.5
    signals = Signals(class_row=jnp.asarray(row), value_norm=jnp.ones((2, 3, 21)))
    plan, out = condense(tc.ATS(), drawn._replace(signals=signals), 8)
    np.testing.assert_array_equal(np.asarray(out.origin[0])[np.asarray(out.size[0]) > 0], [0, 4, 8])
    np.testing.assert_array_equal(plan.valid.sum(-1), 3)
    # The patches of what only fills the width are lost.
    filled = np.asarray(plan.kept[0])[~np.asarray(plan.valid[0])]
    assert (np.asarray(out.slots[0])[filled] == -1).all()


@pytest.mark.parametrize(
    ("reducer", "patches", "prefix", "most"),
    [(tc.ToMe(), 9, 1, 4), (tc.PiToMe(), 8, 0, 4), (tc.MCTF(), 9, 1, 7), (tc.MCTF(), 8, 2, 7), (tc.TopK(), 9, 1, 8)],
)
def test_what_a_method_cannot_remove_is_refused(reducer, patches, prefix, most):
    assert reducer.max_removable(patches, prefix) == most
    sizes = {"img_size": (4, 4 * patches), "patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
    tc.create_model("deit_tiny_patch16_224", reducer, [most], **sizes)
    with pytest.raises(tc.InputError, match=f"at most {most}"):
        tc.create_model("deit_tiny_patch16_224", reducer, [most + 1], **sizes)


OTHER_METHOD = "use tc.GTP() or tc.ToMe()"
OTHER_PARTS = "set score='gtp' and fuse='hard', for example"


@pytest.mark.parametrize(
    ("reducer", "advice"),
    [
        *((reducer, OTHER_METHOD) for reducer in (tc.EViT(), tc.TopK(), tc.DiffRate(), tc.TPS(), tc.ATS())),
        *((tc.Cross(score=score), OTHER_PARTS) for score in ("cls", "ats", "tcvit")),
        (tc.Cross(score="random", fuse="class_token"), OTHER_PARTS),
    ],
    ids=repr,
)
def test_methods_that_read_the_class_token_say_so(reducer, advice):
    with pytest.raises(tc.InputError) as caught:
        tc.create_model("deit_tiny_patch16_224", reducer, 8, class_token=False, global_pool="avg")
    assert str(caught.value) == f"reducer={reducer!r} requires class_token=True: {advice}"


def test_a_method_of_two_halves_removes_nothing_of_one_token():
    assert tc.create_model("deit_tiny_patch16_224", tc.MCTF(), [195, 0], depth=2).removed == (195, 0)


def test_numbers_of_pruned_tokens_have_to_fit_the_schedule():
    reducer, message = tc.DiffRate(pruned=[3, 0, 9]), "pruned=[3, 0, 9] does not fit block"
    assert [reducer.count(block, 9) for block in range(3)] == [3, 0, 9]
    # A block that removes nothing needs no number.
    tc.create_model("deit_tiny_patch16_224", reducer, [3, 1, 9, 0], depth=4)
    for block, removed in ((2, [9, 9, 8, 0]), (3, [9, 9, 9, 9])):
        with pytest.raises(tc.InputError) as caught:
            tc.create_model("deit_tiny_patch16_224", reducer, removed, depth=4)
        assert str(caught.value) == f"{message} {block}, where the schedule removes {removed[block]} tokens"
    with pytest.raises(tc.InputError, match="pruned lists 3 blocks and the model has 2"):
        tc.create_model("deit_tiny_patch16_224", reducer, [3, 1], depth=2)
    assert tc.DiffRate(pruned=0.3).count(0, 9) == 2


@pytest.mark.parametrize("reducer", [tc.ToMe(), tc.ToFu(), tc.PiToMe(), tc.MCTF()], ids=repr)
@pytest.mark.parametrize(("prefix", "patches"), [(1, 20), (2, 3)])
def test_most_of_a_bipartite_method_is_reached(reducer, prefix, patches):
    """At its limit the tokens of one half are gone, but for what the other needs, and nothing is lost."""
    drawn = scene(0, prefix, grid=(1, patches))
    _, out = condense(reducer, drawn, patches - reducer.max_removable(patches, prefix))
    np.testing.assert_allclose(out.size.sum(-1), drawn.tokens.size.sum(-1), rtol=1e-5)
    assert (np.asarray(out.slots) >= 0).all()


@pytest.mark.parametrize("reducer", [kind() for kind in (tc.ToFu, tc.TPS, tc.DiffRate)], ids=repr)
def test_features_get_no_gradient_through_the_choice(reducer):
    """Though the inputs, the match or a length is read off them. In a late block, where ToFu merges."""
    drawn = scene(1, block=3, depth=4)
    prepared = drawn.tokens.with_state(reducer.prepare(drawn.tokens, drawn.grid))

    def weights(x):
        plan = reducer.plan(prepared.with_x(x), drawn.signals, 12)
        found = [value for value in (plan.weight, plan.self_weight, plan.share) if value is not None]
        return sum(((value**2).sum() for value in found), start=0 * x.sum())

    assert float(jnp.abs(jax.grad(weights)(prepared.x)).max()) == 0

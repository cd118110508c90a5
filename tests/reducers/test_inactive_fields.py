"""Fields without an effect: no value of theirs changes a bit."""

from dataclasses import fields, replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import tcvit_jax as tc
from tcvit_jax.reducers import REDUCERS, cross, gtp, tcvit
from tests.models.builders import images_of, run, small, variables_of
from tests.reducers.scenes import KEEP, condense, scene
from tests.reducers.test_tcvit import any_switches
from tests.switches import REDUCERS_AND_SWITCHES

WORDS = sorted({
    *gtp.SCORE_NAMES, *gtp.GRAPHS, *gtp.PROPAGATIONS, *(word for words in tcvit.OPTIONS.values() for word in words),
    *cross.SCORES, *cross.MATCHES, *cross.FUSIONS,
})  # fmt: skip


def changed(reducer, name):
    """The reducer with two other values of the field, or the only other one."""
    value = getattr(reducer, name)
    if isinstance(value, bool):
        values = [not value]
    elif isinstance(value, str):
        values = WORDS
    elif isinstance(value, float):
        values = [value / 2, 1.0]
    else:
        values = [1, 3]
    return list(islice((other for value in values if (other := accepted(reducer, name, value)) != reducer), 2))


def accepted(reducer, name, value):
    """The reducer with this value, or as it is where it does not take it."""
    try:
        return replace(reducer, **{name: value})
    except tc.InputError:
        return reducer


def leaves(reducer):
    plan, out = condense(reducer, scene(0), KEEP)
    return jax.tree.leaves((plan, replace(out, state=None)))


def same(ours, theirs):
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def check(reducer):
    expected, unread = leaves(reducer), reducer.inactive_fields()
    assert set(unread) <= {field.name for field in fields(reducer)}
    for name, needs in unread.items():
        assert needs
        others = changed(reducer, name)
        assert others, f"{name} has one value"
        for other in others:
            assert same(leaves(other), expected), f"{reducer!r} reads {name}: {other!r}"


# TC-ViT has too many combinations to list.
UNREAD = [
    reducer for reducer in REDUCERS_AND_SWITCHES if reducer.inactive_fields() and not isinstance(reducer, tc.TCViT)
]


@pytest.mark.parametrize("reducer", UNREAD, ids=repr)
def test_what_a_reducer_does_not_read_changes_no_bit(reducer):
    check(reducer)


@settings(max_examples=10)
@given(any_switches())
def test_what_any_combination_of_switches_does_not_read_changes_no_bit(reducer):
    check(reducer)


@pytest.mark.parametrize(
    ("reducer", "change"),
    [
        (tc.GTP(), {"alpha": 0.4}),
        (tc.GTP(), {"graph": "spatial"}),
        (tc.GTP(graph="semantic"), {"neighbors": 3}),
        (tc.GTP(score="random"), {"seed": 1}),
        (tc.TCViT(), {"order": 4}),
        (tc.TCViT(balance=0.0), {"order": 4}),
        (tc.TCViT(balance=0.0, dominance="cls_walk", fuse="drop"), {"order": 4}),
        (tc.TCViT(balance=0.0), {"match_order": 4}),
        (tc.TCViT(balance=0.0, fuse="soft"), {"walk": "lazy"}),
        (tc.TCViT(walk="katz", order=3, fuse="soft"), {"gamma": 0.1}),
        (tc.TCViT(fuse="soft"), {"temperature": 0.5}),
        (tc.TCViT(fuse="topm"), {"top_m": 2}),
        (tc.TCViT(balance=0.0, fuse="single"), {"dominance": "gap"}),
        (tc.TCViT(fuse="soft"), {"graph": "patch"}),
        (tc.TCViT(balance=0.0, dominance="gap", fuse="single"), {"self_loops": False}),
        (tc.TCViT(self_loops=False, fuse="soft"), {"renormalize": True}),
        (tc.TCViT(order=1, balance=1.0, fuse="single"), {"columns": "all"}),
        (tc.TCViT(fuse="soft"), {"direction": "from_kept"}),
        (tc.TCViT(fuse="soft"), {"match_norm": "lift"}),
        (tc.TCViT(), {"fuse_weight": "mean"}),
        (tc.Cross(), {"match": "features"}),
    ],
    ids=repr,
)
def test_what_a_reducer_reads_changes_its_plan(reducer, change):
    assert not set(change) & set(reducer.inactive_fields())
    assert not same(leaves(replace(reducer, **change)), leaves(reducer))


@pytest.mark.parametrize(
    ("switches", "is_read"),
    [
        ({}, False), ({"fuse": "drop", "fuse_weight": "score"}, False), ({"fuse": "soft"}, True),
        ({"fuse": "single"}, True), ({"fuse_weight": "score"}, True), ({"fuse_weight": "connectivity"}, True),
    ],
)  # fmt: skip
def test_gradients_read_grad_through_soft_where_it_is_said_to_be_read(switches, is_read):
    drawn = scene(0)

    def slope(flag):
        reducer = tc.TCViT(grad_through_soft=flag, **switches)

        def loss(attention_map):
            signals = replace(drawn.signals, map=attention_map, class_row=None)
            return (condense(reducer, drawn._replace(signals=signals), KEEP)[1].patches ** 2).sum()

        return jax.grad(loss)(drawn.signals.map)

    assert ("grad_through_soft" in tc.TCViT(**switches).inactive_fields()) is not is_read
    assert np.array_equal(slope(True), slope(False)) is not is_read


@pytest.mark.parametrize("kind", [tc.TopK, tc.ATS])
def test_a_model_whose_tokens_are_all_of_size_one_weighs_none(kind):
    """With and without tokens that only fill the width."""
    assert "proportional_attention" in kind().inactive_fields()
    logits = []
    for proportional in (True, False):
        model = small(kind(proportional_attention=proportional), 8, depth=2)
        logits.append(run(model, variables_of(model), images_of(2)))
    np.testing.assert_array_equal(*logits)
    assert bool(jnp.isfinite(logits[0]).all())


def test_what_a_field_needs_is_said_in_its_words():
    assert tc.GTP(propagation="none").inactive_fields() == {
        "proportional_attention": "a method that merges or propagates tokens: all sizes are 1",
        "seed": "score='random'",
        **dict.fromkeys(("alpha", "graph", "neighbors"), "propagation='graph'"),
    }
    assert tc.GTP(score="random", graph="spatial").inactive_fields() == {
        "neighbors": "graph='semantic' or graph='mixed'"
    }
    assert tc.TCViT(balance=0.0, fuse="drop").inactive_fields()["order"] == "balance > 0 or dominance='cls_walk'"
    unread = tc.TCViT().inactive_fields()
    assert unread["temperature"] == "fuse='soft' or fuse='topm'"
    assert unread["gamma"] == "walk='katz'"
    assert tc.Cross(fuse="drop").inactive_fields()["match"].startswith("fuse='hard' or fuse='soft'")


@pytest.mark.parametrize("kind", REDUCERS.values())
def test_what_every_reducer_has_is_read_unless_nothing_gets_a_size(kind):
    unread = kind().inactive_fields()
    assert "attention_keep" not in unread
    assert ("proportional_attention" in unread) == (kind().removal == "drop")

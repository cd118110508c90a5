"""Inactive fields: no value of such a field changes any output."""

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
from tests.reducers.test_tcvit import tcvit_reducers
from tests.switches import REDUCERS_AND_SWITCHES

OPTION_NAMES = sorted({
    *gtp.SCORE_NAMES, *gtp.GRAPHS, *gtp.PROPAGATIONS, *(name for names in tcvit.OPTIONS.values() for name in names),
    *cross.SCORES, *cross.MATCHES, *cross.FUSIONS,
})  # fmt: skip


def variants(reducer, name):
    """Return the reducer with up to two other values of the field."""
    value = getattr(reducer, name)
    if isinstance(value, bool):
        values = [not value]
    elif isinstance(value, str):
        values = OPTION_NAMES
    elif isinstance(value, float):
        values = [value / 2, 0.3, 1.0]
    else:
        values = [1, 3]
    return list(islice((other for value in values if (other := with_value(reducer, name, value)) != reducer), 2))


def with_value(reducer, name, value):
    """Return the reducer with this value, or unchanged if the value is invalid."""
    try:
        return replace(reducer, **{name: value})
    except tc.InputError:
        return reducer


def leaves(reducer):
    plan, out = condense(reducer, scene(0), KEEP)
    return jax.tree.leaves((plan, replace(out, state=None)))


def is_equal(actual, expected):
    return len(actual) == len(expected) and all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


def check(reducer):
    expected, inactive = leaves(reducer), reducer.inactive_fields()
    assert set(inactive) <= {field.name for field in fields(reducer)}
    for name, condition in inactive.items():
        assert condition
        others = variants(reducer, name)
        assert others, f"{name} has only one valid value"
        for other in others:
            assert is_equal(leaves(other), expected), f"{reducer!r} depends on {name}: {other!r}"


# TC-ViT has too many combinations to list.
WITH_INACTIVE_FIELDS = [
    reducer for reducer in REDUCERS_AND_SWITCHES if reducer.inactive_fields() and not isinstance(reducer, tc.TCViT)
]


@pytest.mark.parametrize("reducer", WITH_INACTIVE_FIELDS, ids=repr)
def test_inactive_fields_change_no_output(reducer):
    check(reducer)


@settings(max_examples=10)
@given(tcvit_reducers())
def test_inactive_fields_of_combined_options_change_no_output(reducer):
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
        (tc.TCViT(), {"affinity": "keys"}),
        (tc.TCViT(), {"selection": "cover"}),
        (tc.TCViT(), {"host_share": 0.9}),
        (tc.TCViT(affinity="features", fuse="soft"), {"affinity_temperature": 0.5}),
        (tc.TCViT(affinity="meeting", fuse="soft", balance=0.0), {"self_loops": False}),
        (tc.Cross(), {"match": "features"}),
    ],
    ids=repr,
)
def test_active_fields_change_the_plan(reducer, change):
    assert not set(change) & set(reducer.inactive_fields())
    assert not is_equal(leaves(replace(reducer, **change)), leaves(reducer))


@pytest.mark.parametrize(
    ("options", "is_active"),
    [
        ({}, False), ({"fuse": "drop", "fuse_weight": "score"}, False), ({"fuse": "soft"}, True),
        ({"fuse": "single"}, True), ({"fuse_weight": "score"}, True), ({"fuse_weight": "connectivity"}, True),
        ({"affinity": "symmetric", "fuse": "soft"}, True), ({"affinity": "keys", "fuse": "soft", "balance": 1.0}, False),
        ({"affinity": "features", "fuse_weight": "connectivity", "balance": 1.0}, False),
        ({"affinity": "keys", "fuse_weight": "score", "balance": 1.0}, False),
        ({"affinity": "keys", "fuse_weight": "score", "dominance": "gap"}, True),
        ({"affinity": "features", "fuse": "single", "balance": 1.0}, False),
    ],
)  # fmt: skip
def test_grad_through_soft_changes_gradients_if_and_only_if_active(options, is_active):
    example = scene(0)

    def gradient(flag):
        reducer = tc.TCViT(grad_through_soft=flag, **options)

        def loss(attention_map):
            signals = replace(example.signals, map=attention_map, class_row=None)
            return (condense(reducer, example._replace(signals=signals), KEEP)[1].patches ** 2).sum()

        return jax.grad(loss)(example.signals.map)

    assert ("grad_through_soft" in tc.TCViT(**options).inactive_fields()) is not is_active
    assert np.array_equal(gradient(True), gradient(False)) is not is_active


@pytest.mark.parametrize("kind", [tc.TopK, tc.ATS])
def test_proportional_attention_has_no_effect_if_all_sizes_are_one(kind):
    """With and without padding."""
    assert "proportional_attention" in kind().inactive_fields()
    logits = []
    for proportional in (True, False):
        model = small(kind(proportional_attention=proportional), 8, depth=2)
        logits.append(run(model, variables_of(model), images_of(2)))
    np.testing.assert_array_equal(*logits)
    assert bool(jnp.isfinite(logits[0]).all())


def test_inactive_fields_name_their_conditions():
    assert tc.GTP(propagation="none").inactive_fields() == {
        "proportional_attention": "a method that merges or propagates tokens",
        "seed": "score='random'",
        **dict.fromkeys(("alpha", "graph", "neighbors"), "propagation='graph'"),
    }
    assert tc.GTP(score="random", graph="spatial").inactive_fields() == {
        "neighbors": "graph='semantic' or graph='mixed'"
    }
    assert tc.TCViT(balance=0.0, fuse="drop").inactive_fields()["order"] == "balance > 0 or dominance='cls_walk'"
    inactive = tc.TCViT().inactive_fields()
    assert inactive["temperature"] == "fuse='soft' or fuse='topm'"
    assert inactive["gamma"] == "walk='katz'"
    assert tc.Cross(fuse="drop").inactive_fields()["match"].startswith("fuse='hard' or fuse='soft'")


@pytest.mark.parametrize("kind", REDUCERS.values())
def test_common_fields_are_active_unless_tokens_are_dropped(kind):
    inactive = kind().inactive_fields()
    assert "attention_keep" not in inactive
    assert ("proportional_attention" in inactive) == (kind().removal == "drop")

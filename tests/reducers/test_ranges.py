"""Ranges of the number fields of reducers: every value inside gives finite results, every other one an error."""

import math
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.reducers import REDUCERS
from tests.reducers.scenes import KEEP, condense, feasible_keep, scene
from tests.switches import METHODS

# Ranges by field, and the options with which each field has an effect.
UNIT = (0.0, 1.0)
RANGES = {
    ("diffrate", "pruned"): UNIT,
    ("gtp", "alpha"): UNIT,
    ("mctf", "importance"): (0.01, 1e6),
    ("mctf", "similarity"): (0.01, 1e6),
    ("mctf", "size"): (0.01, 1e6),
    ("pitome", "alpha"): (5e-324, 100.0),
    ("pitome", "margin"): (-1.0, 1.0),
    ("saliencymerging", "alpha"): UNIT,
    ("tcvit", "affinity_temperature"): (0.001, 100.0),
    ("tcvit", "balance"): UNIT,
    ("tcvit", "gamma"): UNIT,
    ("tcvit", "host_share"): (0.0, math.nextafter(1, 0)),
    ("tcvit", "temperature"): (5e-324, math.nextafter(math.inf, 0)),
    ("tofu", "prune_until"): UNIT,
}
ATTENTION_KEEP = (5e-324, 1.0)
ACTIVE = {
    "affinity_temperature": {"affinity": "features", "fuse": "soft", "selection": "cover"},
    "gamma": {"walk": "katz", "order": 3},
    "temperature": {"fuse": "soft", "fuse_weight": "connectivity", "grad_through_soft": True},
}
INTEGERS = {
    ("gtp", "seed"): (0, 2**32 - 1),
    ("kmedoids", "iterations"): (0, 100),
    ("random", "seed"): (0, 2**32 - 1),
    ("tcvit", "match_order"): (1, 100),
    ("tcvit", "order"): (1, 100),
}
PARAMS = [pytest.param(*key, *bounds, id="-".join(key)) for key, bounds in (RANGES | INTEGERS).items()]
FLOATS = PARAMS[: len(RANGES)]


def between(low, high):
    """Draw floats of the interval, and of each order of magnitude."""
    magnitudes = st.integers(-1074, 1023).map(lambda exponent: math.ldexp(1.0, exponent))
    inside = magnitudes.filter(lambda value: low <= value <= high) if low >= 0 else st.nothing()
    return st.sampled_from((low, high)) | st.floats(low, high) | inside


def assert_finite(reducer, example=None):
    example = scene(0) if example is None else example
    plan, out = condense(reducer, example, feasible_keep(reducer, example, KEEP))
    for leaf in jax.tree.leaves((plan, out.x, out.size)):
        assert np.isfinite(leaf).all()


def test_every_number_field_has_a_range():
    names = {
        (name, field.name)
        for name, kind in REDUCERS.items()
        for field in fields(kind)
        if isinstance(field.default, float) and field.name != "attention_keep"
    }
    assert names == set(RANGES)


@pytest.mark.parametrize(("name", "field", "low", "high"), FLOATS)
@settings(max_examples=8)
@given(st.data())
def test_values_in_the_range_give_finite_tokens(name, field, low, high, data):
    value = data.draw(between(low, high))
    reducer = REDUCERS[name](**{field: value}, **ACTIVE.get(field, {}))
    if name == "gtp" and data.draw(st.booleans()):
        # Large features, as after many blocks.
        large = scene(0)
        assert_finite(reducer, large._replace(tokens=large.tokens.with_x(1e15 * large.tokens.x)))
    assert_finite(reducer)


@pytest.mark.parametrize(("name", "field", "low", "high"), PARAMS)
def test_values_outside_the_range_and_other_types_are_errors_of_one_line(name, field, low, high):
    kind = REDUCERS[name]
    is_integer = (name, field) in INTEGERS
    above = high + 1 if is_integer else math.nextafter(high, math.inf)
    below = low - 1 if is_integer else math.nextafter(low, -math.inf)
    for value in (above, below, math.nan, math.inf, -math.inf, -1e38, True, "0.5", {}, np.float32("nan")):
        with pytest.raises(tc.InputError) as error:
            kind(**{field: value})
        text = repr(value.item() if isinstance(value, np.generic) else value)
        assert str(error.value).startswith(f"{field}={text}: must be ")
    for value in (low, high):
        kind(**{field: value})


@pytest.mark.parametrize("reducer", METHODS)
def test_attention_keep_has_a_range(reducer):
    kind = type(reducer)
    for value in (0, -1, 1.5, math.nan, math.inf, "1", True):
        with pytest.raises(tc.InputError, match=r"attention_keep=.*: must be (in \(0, 1\]; 1.0 keeps all|a number)"):
            kind(attention_keep=value)
    assert kind(attention_keep=np.float32(0.5)).attention_keep == 0.5


def test_scalars_and_arrays_become_python_numbers():
    reducer = tc.GTP(alpha=np.float64(0.25), neighbors=np.int64(4))
    assert reducer == tc.GTP(alpha=0.25, neighbors=4)
    assert type(reducer.alpha) is float
    assert type(reducer.neighbors) is int
    assert tc.GTP(alpha=jnp.float32(0.25)) == tc.GTP(alpha=0.25)
    assert tc.DiffRate(pruned=np.asarray([1, 2])) == tc.DiffRate(pruned=[1, 2])
    with pytest.raises(tc.InputError, match=r"alpha=\[0.1, 0.2\]: must be a number"):
        tc.GTP(alpha=np.asarray([0.1, 0.2]))


@pytest.mark.parametrize("reducer", METHODS)
@settings(max_examples=6)
@given(st.sampled_from([0.0, 1e-30, 1e-20, 1.0, 1e15]), st.integers(0, 3))
def test_degenerate_tokens_give_finite_plans(reducer, scale, seed):
    """Equal, zero, tiny and large features and keys: no 0 / 0 and no infinite difference."""
    example = scene(seed)
    signals = example.signals
    signals = jax.tree.map(lambda value: value * min(scale, 1.0), signals)
    x = jnp.full_like(example.tokens.x, scale) if seed % 2 else scale * example.tokens.x
    assert_finite(reducer, example._replace(tokens=example.tokens.with_x(x), signals=signals))

"""Tests of successive halving against a plain reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.search.halving import halve, rungs, survivors


def test_rungs_grow_fourfold_up_to_the_last():
    assert rungs(16, 512) == (16, 64, 256, 512)
    assert rungs(16, 1024) == (16, 64, 256, 1024)
    assert rungs(16, 16) == (16,)
    assert rungs(10, 11) == (10, 11)
    for first in (1, 0, 17):
        with pytest.raises(tc.InputError, match=rf"--min-images={first}: must be in \[2, 16\], up to --images"):
            rungs(first, 16)


def test_survivors_are_a_fraction_rounded_up():
    assert [survivors(count, 3) for count in (1, 2, 3, 4, 9, 10)] == [1, 1, 1, 2, 3, 4]


def reference(values, costs, counts, eta):
    """Return the names of each rung, best first, one candidate after the other."""
    alive, results = list(range(len(costs))), []
    for images in counts:
        ranked = []
        for name in alive:
            place = 0
            while place < len(ranked):
                other = ranked[place]
                mine, others = values[name][images], values[other][images]
                if mine > others or (mine == others and costs[name] < costs[other]):
                    break
                place += 1
            ranked.insert(place, name)
        results.append(ranked)
        count = len(alive) // eta + (len(alive) % eta > 0)
        alive = sorted(ranked[:count])
    return results


@given(st.data())
def test_halving_equals_the_reference(data):
    count, eta = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 4))
    counts = data.draw(st.sampled_from([(16,), (16, 64), (16, 64, 256), (16, 64, 100)]))
    # Few different values, so that there are ties.
    levels = st.sampled_from([0.0, 0.5, 1.0])
    values = [{images: data.draw(levels) for images in counts} for _ in range(count)]
    costs = [data.draw(st.sampled_from([1.0, 2.0])) for _ in range(count)]
    calls = []

    def measure(names, images):
        calls.append((tuple(names), images))
        return [values[name][images] for name in names]

    results = halve(range(count), counts, eta, measure, lambda name: costs[name])
    assert results == reference(values, costs, counts, eta)
    # Every candidate of a rung is measured once, in the order of the candidates.
    assert [images for _, images in calls] == list(counts)
    assert all(list(names) == sorted(names) for names, _ in calls)

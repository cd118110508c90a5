import jax
import numpy as np
import pytest

from tcvit_jax.measure import Oracle, oracle
from tests.models.builders import images_of, run_traced, small, variables_of
from tests.switches import METHODS


@pytest.mark.parametrize("reducer", METHODS)
def test_a_bound_keeps_as_many_tokens_and_costs_nothing_itself(reducer):
    model = small(reducer, [5, 0, 9])
    ideal = oracle(model)
    assert ideal.cost().tokens == model.cost().tokens
    assert ideal.cost().reducer == 0
    own = model.cost()
    assert ideal.cost().total == own.total - own.reducer


def test_it_cuts_the_last_tokens_off_without_a_gather_or_a_sort():
    model, images = small(Oracle(), [5, 9], depth=2), images_of(2)
    variables = variables_of(model)
    _, trace = run_traced(model, variables, images)
    for kept, count in zip(trace.kept, (31, 22), strict=True):
        np.testing.assert_array_equal(kept, np.tile(np.arange(count), (2, 1)))
    assert [int((slots >= 0).sum()) for slots in trace.slots] == [2 * 31, 2 * 22]
    program = jax.jit(model.apply).lower(variables, images).compile().as_text()
    assert " gather(" not in program and " sort(" not in program


def test_a_dense_model_is_its_own_bound():
    assert oracle(small()).cost() == small().cost()

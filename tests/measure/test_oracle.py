import jax
import numpy as np
import pytest

from tcvit_jax.measure import Oracle, oracle
from tests.models.builders import images_of, run_traced, small, variables_of
from tests.switches import METHODS


@pytest.mark.parametrize("reducer", METHODS)
def test_oracle_slice_has_the_same_tokens_and_no_cost(reducer):
    model = small(reducer, [5, 0, 9])
    cost, oracle_cost = model.cost(), oracle(model).cost()
    assert oracle_cost.tokens == cost.tokens
    assert oracle_cost.reducer == 0
    assert oracle_cost.total == cost.total - cost.reducer


def test_oracle_slice_removes_the_last_tokens_without_gather_or_sort():
    model, images = small(Oracle(), [5, 9], depth=2), images_of(2)
    variables = variables_of(model)
    _, trace = run_traced(model, variables, images)
    for kept, count in zip(trace.kept, (31, 22), strict=True):
        np.testing.assert_array_equal(kept, np.tile(np.arange(count), (2, 1)))
    assert [int((slots >= 0).sum()) for slots in trace.slots] == [2 * 31, 2 * 22]
    program = jax.jit(model.apply).lower(variables, images).compile().as_text()
    assert " gather(" not in program and " sort(" not in program


def test_oracle_slice_of_a_dense_model_is_the_dense_model():
    assert oracle(small()).cost() == small().cost()

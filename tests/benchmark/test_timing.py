import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.benchmark.timing import STAGES, Program, compile_program, stage_programs, time_interleaved
from tests.models.builders import small, variables_of


def test_programs_are_interleaved_after_a_warm_up():
    order = []
    programs = [Program(lambda name=name: order.append(name), 0.0, 0) for name in "abc"]
    assert time_interleaved(programs, 4).shape == (4, 3)
    assert "".join(order) == "abc" * 7


def test_measured_times_are_those_of_the_programs():
    programs = [Program(lambda pause=pause: time.sleep(pause), 0.0, 0) for pause in (0.002, 0.02)]
    fast, slow = np.median(time_interleaved(programs, 3), axis=0)
    assert 0.002 <= fast < slow
    assert slow >= 0.02


def test_compile_program_compiles_once_and_runs_synchronously():
    traces = []

    def function(x):
        traces.append(x)
        return x @ x

    program = compile_program(function, jnp.ones((64, 64)))
    assert program.compile_seconds > 0
    # Argument and result have four bytes per number; temporaries add to them.
    assert program.memory >= 2 * 4 * 64 * 64
    result = program.run()
    assert result.is_ready()
    np.testing.assert_array_equal(result, 64.0)
    program.run()
    assert len(traces) == 1


# Reducers with a state across blocks, with an extra token, and with a mask.
@pytest.mark.parametrize(
    ("reducer", "depth"),
    [
        (None, 2),
        (tc.GTP(), 3),
        pytest.param(tc.EViT(), 2, marks=pytest.mark.slow),
        pytest.param(tc.ATS(), 2, marks=pytest.mark.slow),
    ],
)
def test_stages_compute_the_model(reducer, depth):
    """Each stage computes its part of the model, and the last one returns the logits."""
    model = small(reducer, 5, depth=depth)
    variables, images = variables_of(model), jax.random.normal(jax.random.key(0), (2, 24, 24, 3))
    stages = stage_programs(model, variables, images)
    assert list(stages) == [stage for stage in STAGES if reducer or stage not in ("plan", "apply")]
    np.testing.assert_allclose(stages["head"].run(), jax.jit(model.apply)(variables, images), atol=1e-5)
    head = jax.jit(lambda variables, tokens: model.bind(variables).logits(tokens, False))
    np.testing.assert_allclose(head(variables, stages["mlp"].run()[-1]), stages["head"].run(), atol=1e-5)
    if reducer:
        # The last block does not plan, because the head reads the class token only.
        assert len(stages["plan"].run()) == len(stages["apply"].run()) == depth - 1
        assert [tokens.origin.shape[1] for tokens in stages["apply"].run()] == list(model.cost().tokens[1:depth])


def test_missing_memory_analysis_is_an_error(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    with pytest.raises(tc.InputError, match="the compiler provides no memory analysis"):
        compile_program(jnp.sin, jnp.ones(3))

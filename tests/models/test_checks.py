"""Ranges of the number fields of models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tests.models.builders import images_of, small, variables_of

RANGES = {
    "mlp_ratio": (1 / 24, 100.0, "in (0, 100]"),
    "init_values": (0.0, 10.0, "in [0, 10]; None for no LayerScale"),
    "norm_eps": (1e-12, 1.0, "in [1e-12, 1]"),
    "skip_lam": (0.01, 100.0, "in [0.01, 100]"),
}
RATES = ("drop_rate", "pos_drop_rate", "proj_drop_rate", "drop_path_rate")


@pytest.mark.parametrize("name", RANGES)
def test_values_outside_the_range_are_errors_of_one_line(name):
    low, high, condition = RANGES[name]
    for value in (-1, -1e-3, math.nextafter(high, math.inf), math.nan, math.inf, -math.inf, 1e38, True, "0.5", [0.5]):
        with pytest.raises(tc.InputError) as error:
            small(**{name: value})
        assert str(error.value) == f"{name}={value!r}: must be {condition}"
    for value in (low, high):
        assert getattr(small(**{name: value}), name) == value


@pytest.mark.parametrize("rate", RATES)
def test_drop_rates_are_probabilities_below_one(rate):
    for value in (-0.1, 1, 1.5, math.nan, math.inf, False, "0.1", None):
        with pytest.raises(tc.InputError) as error:
            small(**{rate: value})
        assert str(error.value) == f"{rate}={value!r}: must be in [0, 1)"


def test_mlp_has_at_least_one_hidden_unit():
    with pytest.raises(tc.InputError) as error:
        small(mlp_ratio=0.01)
    assert str(error.value) == "mlp_ratio=0.01: must be >= 1 / embed_dim, which is 0.0417"


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"norm_eps": 1e-12, "init_values": 10.0, "skip_lam": 0.01, "proj_drop_rate": 0.9}, id="amplified"),
        pytest.param({"norm_eps": 1.0, "init_values": 1e-30, "skip_lam": 100.0}, id="damped", marks=pytest.mark.slow),
    ],
)
def test_extreme_values_give_finite_logits(changes, dtype):
    model = small(tc.GTP(alpha=1.0), 8, dtype=dtype, **changes)
    variables = variables_of(model)
    # Constant images, whose patches differ only by their position embeddings.
    images = jnp.concatenate([images_of(1), jnp.zeros_like(images_of(1)), jnp.full_like(images_of(1), 1e4)])
    logits = jax.jit(model.apply)(variables, images)
    assert np.isfinite(logits).all()

"""Training and evaluation data of a configuration."""

import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, config
from tests.conftest import ROOT

GTP = str(ROOT / "configs" / "digits_gtp.py")


def eval_data(*overrides):
    run_config = config.load(GTP, overrides)
    model = assembly.build_model(run_config.model, run_config.reduction)
    preprocessing = assembly.build_preprocessing(run_config.data, model)
    return assembly.build_eval_data(run_config.data, run_config.run.eval_batch_size, model, preprocessing)


@pytest.mark.parametrize(
    ("size", "expected"), [(8, 8), (352, 352), (360, 360), (368, 360), (10**9, 360), (10**15, 360)]
)
def test_evaluation_batch_has_less_padding_than_devices(size, expected):
    """The 359 images are evaluated on eight devices."""
    data = eval_data(f"--config.eval_batch_size={size}")
    assert data.batch_size == expected
    assert sum(batch["mask"].sum() for batch in data.batches()) == 359


@pytest.mark.parametrize("value", ["many", "1e3", "[64]", "0", "-8"])
def test_invalid_size_of_the_evaluation_batch_is_one_line(value):
    with pytest.raises(tc.InputError, match="^eval_batch_size="):
        eval_data(f"--config.eval_batch_size={value}")

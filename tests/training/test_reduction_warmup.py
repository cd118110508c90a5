"""The stages of the reduction warm-up."""

import math

import pytest

import tcvit_jax as tc
from tcvit_jax.config import ReductionWarmup
from tcvit_jax.training.reduction_warmup import Stage, stage_at, stages
from tests.models.builders import small

MODEL = small(tc.GTP(), 8, depth=3)


def settings(**changes):
    return ReductionWarmup(**changes)


def test_zero_epochs_give_one_stage():
    assert stages(settings(), MODEL, 100, 10.0) == (Stage(0, MODEL.removed),)


def test_stages_rise_as_half_a_cosine_to_the_full_schedule():
    result = stages(settings(start_epoch=1.0, epochs=6.0, stages=8), MODEL, 100, 10.0)
    assert result[0] == Stage(0, (0, 0, 0))
    assert result[-1] == Stage(70, MODEL.removed)
    for level, stage in enumerate(result):
        assert stage.removed == (level,) * 3
        if level:
            fraction = (1 - math.cos(math.pi * (stage.start - 10) / 60)) / 2
            # Stages start at integer steps, and one step changes the fraction by up to 0.026.
            assert fraction == pytest.approx(level / 8, abs=0.03)
    assert [stage_at(result, step).removed[0] for step in (0, 10, 40, 69, 70, 99)] == [0, 0, 4, 7, 8, 8]


def test_stages_with_equal_schedules_are_merged():
    result = stages(settings(epochs=5.0, stages=50), MODEL, 100, 10.0)
    assert [stage.removed[0] for stage in result] == list(range(9))
    assert [stage.start for stage in result] == sorted({stage.start for stage in result})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"epochs": 10.0},
            "reduction_warmup.epochs=10.0: must be shorter than the run; the reduction warm-up ends at step 100 and the run has 100 steps",
        ),
        ({"epochs": -1.0}, "reduction_warmup.epochs=-1.0: must be >= 0"),
        ({"epochs": 1.0, "stages": 0}, "reduction_warmup.stages=0: must be >= 1"),
    ],
)
def test_invalid_warmup_is_an_error(changes, message):
    with pytest.raises(tc.InputError) as error:
        stages(settings(**changes), MODEL, 100, 10.0)
    assert str(error.value) == message


def test_warmup_requires_a_schedule_that_removes_tokens():
    with pytest.raises(
        tc.InputError,
        match="reduction_warmup.epochs=2.0 requires a schedule that removes tokens: set a reducer and a schedule",
    ):
        stages(settings(epochs=2.0), small(), 100, 10.0)

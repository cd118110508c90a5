"""The stages from no reduction to all of it."""

import math

import pytest

import tcvit_jax as tc
from tcvit_jax.config import ReductionWarmup
from tcvit_jax.training.reduction_warmup import Stage, stage_at, stages
from tests.models.builders import small

MODEL = small(tc.GTP(), 8, depth=3)


def settings(**changes):
    return ReductionWarmup(**changes)


def test_without_epochs_there_is_one_stage():
    assert stages(settings(), MODEL, 100, 10.0) == (Stage(0, MODEL.removed),)


def test_stages_follow_half_a_cosine_from_nothing_to_everything():
    found = stages(settings(start_epoch=1.0, epochs=6.0, stages=8), MODEL, 100, 10.0)
    assert found[0] == Stage(0, (0, 0, 0))
    assert found[-1] == Stage(70, MODEL.removed)
    for level, stage in enumerate(found):
        assert stage.removed == (level,) * 3
        if level:
            part = (1 - math.cos(math.pi * (stage.start - 10) / 60)) / 2
            # A step before or after would be half a step of the schedule further off.
            assert part == pytest.approx(level / 8, abs=0.03)
    assert [stage_at(found, step).removed[0] for step in (0, 10, 40, 69, 70, 99)] == [0, 0, 4, 7, 8, 8]


def test_stages_that_remove_the_same_are_one():
    found = stages(settings(epochs=5.0, stages=50), MODEL, 100, 10.0)
    assert [stage.removed[0] for stage in found] == list(range(9))
    assert [stage.start for stage in found] == sorted({stage.start for stage in found})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 10.0}, "reduction_warmup.epochs=10.0 ends at step 100, and the run has 100: use less"),
        ({"epochs": -1.0}, "reduction_warmup.epochs=-1.0: must be >= 0"),
        ({"epochs": 1.0, "stages": 0}, "reduction_warmup.stages=0: must be >= 1"),
    ],
)
def test_impossible_stages(changes, message):
    with pytest.raises(tc.InputError) as caught:
        stages(settings(**changes), MODEL, 100, 10.0)
    assert str(caught.value) == message


def test_nothing_to_warm_down_to():
    with pytest.raises(
        tc.InputError, match=r"reduction_warmup.epochs=2.0, and nothing is removed: use a reducer and a schedule"
    ):
        stages(settings(epochs=2.0), small(), 100, 10.0)

"""Warm-up of the reduction over the first epochs of a run, as EViT's of its keep rate (Liang et al., 2022).

Shapes are static, so the number of tokens decreases in stages, each with its own compiled step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tcvit_jax.config import ReductionWarmup
from tcvit_jax.errors import out_of_range, requires
from tcvit_jax.models import ViT, condense
from tcvit_jax.schedule import at_most


@dataclass(frozen=True)
class Stage:
    """A part of a run with one reduction schedule.

    Attributes:
        start: The first step of the stage, counted from 0.
        removed: The number of patch tokens removed in each block.
    """

    start: int
    removed: tuple[int, ...]


def stages(
    reduction_warmup: ReductionWarmup, model: ViT, total_steps: int, steps_per_epoch: float
) -> tuple[Stage, ...]:
    """Return the stages of a run; the last one has the full schedule of `model`.

    Nothing is removed before `start_epoch`. Over the next `epochs`, the removed fraction of the schedule rises as half
    a cosine, `(1 - cos(pi t)) / 2`, in equal steps of the schedule; token counts are rounded, and
    lowered to numbers that the reducer can remove.

    Args:
        reduction_warmup: The `reduction_warmup` section of the configuration.
        model: The model with its full schedule.
        total_steps: The number of steps of the run.
        steps_per_epoch: The number of steps per epoch, which may be fractional.

    Raises:
        InputError: The schedule removes nothing, or the warm-up does not end before the run.
    """
    if not reduction_warmup.epochs:
        return (Stage(0, model.removed),)
    if not any(model.removed):
        raise requires(
            f"reduction_warmup.epochs={reduction_warmup.epochs}", "a schedule that removes tokens",
            "set a reducer and a schedule",
        )  # fmt: skip
    end = (reduction_warmup.start_epoch + reduction_warmup.epochs) * steps_per_epoch
    if end >= total_steps:
        raise out_of_range(
            "reduction_warmup.epochs", reduction_warmup.epochs, "shorter than the run",
            f"the reduction warm-up ends at step {round(end)} and the run has {total_steps} steps",
        )  # fmt: skip
    result: list[Stage] = []
    for level in range(reduction_warmup.stages + 1):
        fraction = level / reduction_warmup.stages
        # The time at which half a cosine reaches this fraction.
        time = math.acos(1 - 2 * fraction) / math.pi
        start = round((reduction_warmup.start_epoch + reduction_warmup.epochs * time) * steps_per_epoch) if level else 0
        # The last stage is the schedule itself, in which one token may be replaced by one fused token.
        counts = at_most(tuple(round(fraction * count) for count in model.removed)) if fraction < 1 else model.removed
        # This raises the error of a reducer that cannot remove this number of tokens.
        removed = condense(model, model.reducer, counts).removed
        if result and result[-1].start == start:
            result.pop()
        if not result or result[-1].removed != removed:
            result.append(Stage(start, removed))
    return tuple(result)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """Return the stage of the step that comes after `step` steps."""
    return next(stage for stage in reversed(stages) if stage.start <= step)

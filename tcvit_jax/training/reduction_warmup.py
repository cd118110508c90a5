"""From no reduction to all of it over the first epochs of a run (EViT's warm-up of its keep rate; Liang et al., 2022).

Shapes are static, so that the number of tokens comes down in stages, each with a compiled step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tcvit_jax.config import ReductionWarmup
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT, condense


@dataclass(frozen=True)
class Stage:
    """A part of a run: from step `start` on (counted from 0), patch tokens leave each block as `removed` says."""

    start: int
    removed: tuple[int, ...]


def stages(
    reduction_warmup: ReductionWarmup, model: ViT, total_steps: int, steps_per_epoch: float
) -> tuple[Stage, ...]:
    """The stages of a run; the last one has the whole schedule of `model`.

    Until `start_epoch` nothing is removed; over the next `epochs` the removed part of the schedule follows half a
    cosine, `(1 - cos(pi t)) / 2`, in equal steps of the schedule, each number of tokens rounded.

    Raises:
        InputError: nothing is removed, or the warm-down does not end before the run.
    """
    if not reduction_warmup.epochs:
        return (Stage(0, model.removed),)
    if not any(model.removed):
        raise InputError(
            f"reduction_warmup.epochs={reduction_warmup.epochs}, and nothing is removed: use a reducer and a schedule"
        )
    end = (reduction_warmup.start_epoch + reduction_warmup.epochs) * steps_per_epoch
    if end >= total_steps:
        raise InputError(
            f"reduction_warmup.epochs={reduction_warmup.epochs} ends at step {round(end)}, and the run has {total_steps}: use less"
        )
    found: list[Stage] = []
    for level in range(reduction_warmup.stages + 1):
        part = level / reduction_warmup.stages
        # When half a cosine has come so far.
        time = math.acos(1 - 2 * part) / math.pi
        start = round((reduction_warmup.start_epoch + reduction_warmup.epochs * time) * steps_per_epoch) if level else 0
        removed = tuple(round(part * count) for count in model.removed)
        if found and found[-1].start == start:
            found.pop()
        if not found or found[-1].removed != removed:
            # What a method cannot remove of so many tokens is raised now.
            condense(model, model.reducer, removed)
            found.append(Stage(start, removed))
    return tuple(found)


def stage_at(found: Sequence[Stage], step: int) -> Stage:
    """The stage of the step after `step` steps."""
    return next(stage for stage in reversed(found) if stage.start <= step)

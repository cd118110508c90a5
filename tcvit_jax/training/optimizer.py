"""AdamW (Loshchilov and Hutter, 2019) with linear warm-up, cosine decay and layer-wise learning rate decay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax import Array

from tcvit_jax.config import Optimizer
from tcvit_jax.errors import InputError
from tcvit_jax.models.parameters import KeyPath, ParameterTable


def learning_rate(
    settings: Optimizer, total_steps: int, steps_per_epoch: float, batch_size: int | None = None
) -> optax.Schedule:
    """Return the schedule: linear from `warmup_lr` over the warm-up, then a cosine that ends at `min_lr`.

    It is timm's `CosineLRScheduler`, by updates. With `warmup_prefix` the cosine begins after the warm-up; without, as
    in DeiT's recipe, it begins at the first step and the warm-up replaces its beginning. With `lr_batch_size`, `lr` is
    the learning rate for that many images a step, and is scaled to `batch_size` (Goyal et al., 2017).

    Args:
        settings: the configuration's section.
        total_steps: steps of the run.
        steps_per_epoch: may be fractional.
        batch_size: images a step.

    Returns:
        A function from the number of steps taken to the learning rate.

    Raises:
        InputError: `min_lr` above the scaled `lr`, or a warm-up as long as the run.
    """
    peak = settings.lr
    if settings.lr_batch_size:
        peak = settings.lr * (batch_size or 1) / settings.lr_batch_size
    if not settings.min_lr <= peak:
        raise InputError(
            f"optimizer.min_lr={settings.min_lr}: must be at most optimizer.lr, which is {peak:g} at this batch size"
        )
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise InputError(
            f"optimizer.warmup_epochs={settings.warmup_epochs}: must be shorter than the run; it is {warmup} steps, "
            f"and the run has {total_steps}"
        )
    # Steps of the cosine that the warm-up replaces.
    skipped = 0 if settings.warmup_prefix else warmup
    cosine_steps = total_steps - warmup + skipped

    # Optax's linear and cosine schedules differ from these two by up to 8e-6 of the rate: the order of operations.
    def linear(step: Any) -> Any:
        return settings.warmup_lr + step * (peak - settings.warmup_lr) / max(warmup, 1)

    def cosine(step: Any) -> Any:
        progress = jnp.clip((step + skipped) / cosine_steps, 0, 1)
        return settings.min_lr + 0.5 * (peak - settings.min_lr) * (1 + jnp.cos(jnp.pi * progress))

    return optax.join_schedules([linear, cosine], [warmup])


def decay_mask(params: Any, table: ParameterTable) -> Any:
    """Return a tree of booleans: whether weight decay applies to each parameter.

    Raises:
        InputError: a parameter that is not in the table.
    """

    def decays(path: KeyPath, _: Any) -> bool:
        return table.decays(path)

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_by_layer(decay: float, table: ParameterTable, depth: int) -> optax.GradientTransformation:
    """Return layer-wise learning rate decay (Bao et al., 2022, BEiT): a factor `decay` per layer below the head."""

    def scaled(path: KeyPath, value: Array) -> Array:
        return value * decay ** (depth + 1 - table.layer(path, depth))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def adamw(
    settings: Optimizer, schedule: optax.Schedule, table: ParameterTable, depth: int
) -> optax.GradientTransformation:
    """Return the optimizer of a configuration.

    Gradients are clipped by their global norm unless `clip_norm` is 0; steps are smaller for lower layers unless
    `layer_decay` is 1.

    Args:
        settings: the configuration's section.
        schedule: from `learning_rate`.
        table: the parameter table of the model's architecture.
        depth: blocks of the model.
    """
    parts: list[optax.GradientTransformation] = [
        optax.adamw(
            schedule, settings.b1, settings.b2, weight_decay=settings.weight_decay,
            mask=lambda params: decay_mask(params, table),
        )
    ]  # fmt: skip
    if settings.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    if settings.layer_decay < 1:
        parts.append(scale_by_layer(settings.layer_decay, table, depth))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]

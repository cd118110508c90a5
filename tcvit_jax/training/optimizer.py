"""AdamW (Loshchilov and Hutter, 2019) with linear warm-up, cosine decay and layer-wise learning rate decay."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax import Array

from tcvit_jax.config import Optimizer
from tcvit_jax.errors import out_of_range
from tcvit_jax.models.parameters import KeyPath, ParameterTable


def learning_rate(
    settings: Optimizer, total_steps: int, steps_per_epoch: float, batch_size: int | None = None
) -> optax.Schedule:
    """Return the learning rate schedule: linear warm-up from `warmup_lr`, then cosine decay to `min_lr`.

    This is timm's `CosineLRScheduler`, updated every step. With `warmup_prefix` the cosine starts after the warm-up.
    Otherwise, as in DeiT's recipe, it starts at the first step and the warm-up replaces its beginning. With
    `lr_batch_size`, `lr` is the learning rate for that batch size and is scaled linearly to `batch_size` (Goyal et al.,
    2017).

    Args:
        settings: The `optimizer` section of the configuration.
        total_steps: The number of steps of the run.
        steps_per_epoch: The number of steps per epoch, which may be fractional.
        batch_size: The number of images per step.

    Returns:
        A function from the number of steps taken to the learning rate.

    Raises:
        InputError: `min_lr` is greater than the scaled `lr`, or the warm-up is not shorter than the run.
    """
    peak = settings.lr
    if settings.lr_batch_size:
        peak = settings.lr * (batch_size or 1) / settings.lr_batch_size
    if not settings.min_lr <= peak:
        raise out_of_range(
            "optimizer.min_lr", settings.min_lr, f"<= optimizer.lr, which is {peak:g} at this batch size"
        )
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise out_of_range(
            "optimizer.warmup_epochs", settings.warmup_epochs, "shorter than the run",
            f"the warm-up has {warmup} steps and the run has {total_steps}",
        )  # fmt: skip
    # The steps of the cosine that the warm-up replaces.
    replaced_steps = 0 if settings.warmup_prefix else warmup
    cosine_steps = total_steps - warmup + replaced_steps

    # Not Optax's linear and cosine schedules: their order of operations changes the rate by up to 8e-6 of its value.
    def linear(step: Any) -> Any:
        return settings.warmup_lr + step * (peak - settings.warmup_lr) / max(warmup, 1)

    def cosine(step: Any) -> Any:
        progress = jnp.clip((step + replaced_steps) / cosine_steps, 0, 1)
        return settings.min_lr + 0.5 * (peak - settings.min_lr) * (1 + jnp.cos(jnp.pi * progress))

    return optax.join_schedules([linear, cosine], [warmup])


def decay_mask(params: Any, table: ParameterTable) -> Any:
    """Return a tree of booleans that says whether weight decay applies to each parameter.

    Args:
        params: The parameters.
        table: The parameter table of the model.

    Raises:
        InputError: A parameter is not in the table.
    """

    def decays(path: KeyPath, _: Any) -> bool:
        return table.decays(path)

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_by_layer(decay: float, table: ParameterTable, depth: int) -> optax.GradientTransformation:
    """Return a transformation for layer-wise learning rate decay (Bao et al., 2022, BEiT).

    Args:
        decay: The factor per layer below the head.
        table: The parameter table of the model.
        depth: The number of blocks of the model.
    """

    def scale(path: KeyPath, value: Array) -> Array:
        return value * decay ** (depth + 1 - table.layer(path, depth))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def adamw(
    settings: Optimizer, schedule: optax.Schedule, table: ParameterTable, depth: int
) -> optax.GradientTransformation:
    """Return the optimizer of a configuration.

    Gradients are clipped by their global norm unless `clip_norm` is 0. Updates are scaled down for lower layers unless
    `layer_decay` is 1.

    Args:
        settings: The `optimizer` section of the configuration.
        schedule: The learning rate schedule, from `learning_rate`.
        table: The parameter table of the model.
        depth: The number of blocks of the model.
    """
    transforms: list[optax.GradientTransformation] = [
        optax.adamw(
            schedule, settings.b1, settings.b2, weight_decay=settings.weight_decay,
            mask=lambda params: decay_mask(params, table),
        )
    ]  # fmt: skip
    if settings.clip_norm:
        transforms.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    if settings.layer_decay < 1:
        transforms.append(scale_by_layer(settings.layer_decay, table, depth))
    return optax.chain(*transforms) if len(transforms) > 1 else transforms[0]

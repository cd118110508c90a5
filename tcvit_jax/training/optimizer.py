"""AdamW (Loshchilov and Hutter, 2019) with linear warm-up and cosine decay."""

from __future__ import annotations

from typing import Any

import jax
import optax

from tcvit_jax.config import Config
from tcvit_jax.errors import InputError

UNDECAYED = ("cls_token", "dist_token", "reg_token", "pos_embed")


def learning_rate(config: Config, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Steps taken to learning rate: linear from 0 over the warm-up, then a cosine that ends at `min_lr`.

    Raises:
        InputError: a setting out of its range, or a warm-up longer than the run.
    """
    for key in ("b1", "b2", "ema_decay"):
        if not 0 <= config[key] < 1:
            raise InputError(f"optimizer.{key}={config[key]} is not in [0, 1)")
    for key in ("weight_decay", "clip_norm", "warmup_epochs"):
        if not config[key] >= 0:
            raise InputError(f"optimizer.{key}={config[key]} is negative")
    if not config.lr > 0 or not 0 <= config.min_lr <= config.lr:
        raise InputError(f"optimizer.lr={config.lr} and min_lr={config.min_lr}: use 0 <= min_lr <= lr and lr > 0")
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise InputError(
            f"optimizer.warmup_epochs={config.warmup_epochs} is {warmup} steps, and the run has {total_steps}: use less"
        )
    return optax.warmup_cosine_decay_schedule(0.0, config.lr, warmup, total_steps, config.min_lr)


def decays(params: Any) -> Any:
    """Which parameters weight decay pulls on: matrices, and neither vectors nor learned tokens and positions."""

    def decayed(path: tuple[Any, ...], value: Any) -> bool:
        return value.ndim > 1 and path[-1].key not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def adamw(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of a configuration; gradients are clipped by their global norm where `clip_norm` is not 0."""
    step = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decays)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), step) if config.clip_norm else step

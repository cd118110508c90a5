"""AdamW (Loshchilov and Hutter, 2019) with linear warm-up and cosine decay, and what of it is for which parameter."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tcvit_jax.config import Config
from tcvit_jax.errors import InputError

UNDECAYED = ("cls_token", "dist_token", "reg_token", "pos_embed")


def learning_rate(
    config: Config, total_steps: int, steps_per_epoch: float, batch_size: int | None = None
) -> optax.Schedule:
    """Steps taken to learning rate: linear from `warmup_lr` over the warm-up, then a cosine that ends at `min_lr`.

    As timm's `CosineLRScheduler` by updates. With `warmup_prefix` the cosine begins behind the warm-up; without, as in
    DeiT's recipe, it runs from the first step on and the warm-up replaces its beginning. With `lr_batch_size`, `lr` is
    that of so many images a step, and is scaled to `batch_size` (Goyal et al., 2017).

    Raises:
        InputError: a setting out of its range, or a warm-up longer than the run.
    """
    for key in ("b1", "b2", "ema_decay"):
        if not 0 <= config[key] < 1:
            raise InputError(f"optimizer.{key}={config[key]} is not in [0, 1)")
    for key in ("weight_decay", "clip_norm", "warmup_epochs", "warmup_lr", "lr_batch_size"):
        if not config[key] >= 0:
            raise InputError(f"optimizer.{key}={config[key]} is negative")
    if not 0 < config.layer_decay <= 1:
        raise InputError(f"optimizer.layer_decay={config.layer_decay} is not in (0, 1]: 1 is off")
    peak = config.lr * (batch_size or 1) / config.lr_batch_size if config.lr_batch_size else config.lr
    if not peak > 0 or not 0 <= config.min_lr <= peak:
        raise InputError(f"optimizer.lr={peak:g} and min_lr={config.min_lr}: use 0 <= min_lr <= lr and lr > 0")
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise InputError(
            f"optimizer.warmup_epochs={config.warmup_epochs} is {warmup} steps, and the run has {total_steps}: use less"
        )
    before = warmup if config.warmup_prefix else 0

    def rate(step: Any) -> Any:
        rising = config.warmup_lr + step * (peak - config.warmup_lr) / max(warmup, 1)
        course = jnp.clip((step - before) / (total_steps - before), 0, 1)
        falling = config.min_lr + 0.5 * (peak - config.min_lr) * (1 + jnp.cos(jnp.pi * course))
        return jnp.where(step < warmup, rising, falling)

    return rate


def decays(params: Any) -> Any:
    """Which parameters weight decay pulls on: matrices, and neither vectors nor learned tokens and positions."""

    def decayed(path: tuple[Any, ...], value: Any) -> bool:
        return value.ndim > 1 and path[-1].key not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter, by its `/`-separated name: 0 before the first block, `depth + 1` behind the last."""
    block = re.match(r"blocks_(\d+)/", name)
    if block:
        return int(block[1]) + 1
    return 0 if re.match(r"patch_embed/|cls_token|dist_token|reg_token|pos_embed|norm_pre/", name) else depth + 1


def scale_by_layer(decay: float, depth: int) -> optax.GradientTransformation:
    """Layer-wise decay of the learning rate (Bao et al., 2022, BEiT): times `decay` for each layer below the head."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(path: tuple[Any, ...], value: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return value * decay ** (depth + 1 - layer_of(name, depth))

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adamw(config: Config, schedule: optax.Schedule, depth: int = 0) -> optax.GradientTransformation:
    """The optimiser of a configuration, for a model of `depth` blocks.

    Gradients are clipped by their global norm where `clip_norm` is not 0; steps are smaller for lower layers where
    `layer_decay` is not 1.
    """
    parts: list[optax.GradientTransformation] = [
        optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decays)
    ]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.layer_decay < 1:
        parts.append(scale_by_layer(config.layer_decay, depth))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]

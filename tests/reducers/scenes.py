"""Random tokens after attention, with their attention maps.

Operations run eagerly, so that all reducers share the compiled operations of equal shapes. Most tests use the same few
shapes: those of `scene` with its defaults, and of `KEEP` kept tokens.
"""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.ops.attention import SIGNALS, Signals, attention, row_norm
from tcvit_jax.tokens import Tokens

KEEP = 12


# Compiled as one program per shape.
@partial(jax.jit, static_argnames="class_tokens")
def attend(q, k, v, **options):
    """Return the outputs of attention and all signals. The norm of the mean value stands for the one of the MLP."""
    out, signals = attention(q, k, v, signals=SIGNALS, **options)
    return out, replace(signals, mlp_norm=row_norm(v.astype(jnp.float32).mean(1)))


class Scene(NamedTuple):
    tokens: Tokens
    signals: Signals
    maps: np.ndarray  # [B, H, T, T] float64, computed from the definition
    keys: np.ndarray  # [B, H, T, d] float64
    values: np.ndarray  # [B, H, T, d] float64
    grid: tuple[int, int]


@lru_cache(maxsize=64)
def scene(seed: int, prefix: int = 1, batch: int = 2, grid: tuple[int, int] = (4, 5), **changes: Any) -> Scene:
    """Return random tokens with sizes; `changes` are fields of `Tokens`, such as `class_tokens`."""
    rng, patches = np.random.default_rng(seed), grid[0] * grid[1]
    count = prefix + patches
    x = jnp.asarray(rng.standard_normal((batch, count, 6)), jnp.float32)
    q, k, v = ((1.5 * rng.standard_normal((batch, 3, count, 4))).astype(np.float32) for _ in range(3))
    size = jnp.asarray(rng.uniform(1, 4, (batch, patches)), jnp.float32)
    tokens = replace(Tokens.start(x, prefix), size=size, **changes)
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) / 2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    signals = attend(*map(jnp.asarray, (q, k, v)), class_tokens=tokens.class_tokens)[1]
    maps = weights / weights.sum(-1, keepdims=True)
    return Scene(tokens, signals, maps, k.astype(np.float64), v.astype(np.float64), grid)


def condense(reducer, scene, keep, is_prepared=False):
    """Return the plan for a scene and the tokens after it; `is_prepared` if the tokens have a reducer state already."""
    tokens = scene.tokens if is_prepared else scene.tokens.with_state(reducer.prepare(scene.tokens, scene.grid))
    out, plan = reducer.reduce(tokens, scene.signals, keep)
    return plan, out


def feasible_keep(reducer, scene, keep):
    """Return `keep`, raised to the number of tokens that the method must keep in one block."""
    patches = scene.tokens.origin.shape[1]
    return patches - reducer.lower_count(patches, scene.tokens.prefix, patches - keep, scene.grid)

"""The training state and the one compiled step that advances it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from tcvit_jax import sharding
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.ops.images import normalise


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Attributes:
        step: int32 scalar, steps taken.
        variables: the model's, float32: `"params"`, which the optimiser changes, and `"batch_stats"` where it has any.
        ema: their exponential moving average, which is what gets evaluated.
        opt_state: of the optimiser.
    """

    step: Array
    variables: dict[str, Any]
    ema: dict[str, Any]
    opt_state: Any


TrainStep = Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]


def make_init(model: ViT, tx: optax.GradientTransformation, seed: int) -> Callable[..., TrainState]:
    """A function that makes the first state, from the variables it is given or freshly drawn ones."""

    def init(variables: dict[str, Any] | None = None) -> TrainState:
        fresh = variables
        if fresh is None:
            images = jnp.zeros((1, *model.img_size, model.in_chans))
            fresh = dict(model.init(jax.random.key(seed), images))
        return TrainState(jnp.zeros((), jnp.int32), fresh, jax.tree.map(jnp.copy, fresh), tx.init(fresh["params"]))

    return init


def cross_entropy(logits: Array, label: Array, smoothing: float) -> Array:
    """Mean softmax cross-entropy against labels smoothed towards the uniform distribution (Szegedy et al., 2016)."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target).mean()


def make_train_step(
    model: ViT,
    tx: optax.GradientTransformation,
    preprocessing: Preprocessing,
    mesh: Mesh,
    *,
    seed: int,
    label_smoothing: float,
    ema_decay: float,
) -> TrainStep:
    """A compiled function from a state and a global batch to the next state and its metrics.

    Parameters are whole on every device and the batch is cut over them, so that the mean of the gradients is the only
    thing they exchange, but for batch norm, whose statistics are those of the whole batch. Random choices are a
    function of (seed, step). The state that goes in is given up.
    """

    def train_step(state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = normalise(batch["image"], preprocessing.mean, preprocessing.std)

        params = state.variables["params"]

        def loss_fn(params: Any) -> tuple[Array, Any]:
            variables = {**state.variables, "params": params}
            logits, statistics = model.apply(
                variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
            )
            return cross_entropy(cast(Array, logits), batch["label"], label_smoothing), statistics

        (loss, statistics), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(gradients, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **statistics}
        # A young average forgets faster, or it would remember the random start for most of a short run.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema: Any = optax.incremental_update(variables, state.ema, 1 - decay)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, ema, opt_state), metrics

    whole = sharding.replicated(mesh)
    return jax.jit(
        train_step, in_shardings=(whole, sharding.split(mesh)), out_shardings=(whole, whole), donate_argnums=0
    )

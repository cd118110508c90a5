"""The training state and the one compiled step that advances it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int, Key

from tcvit_jax import sharding
from tcvit_jax.models import ViT
from tcvit_jax.ops.rows import Rows
from tcvit_jax.training.objective import Objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Attributes:
        step: int32 scalar, steps taken.
        variables: the model's, float32: `"params"`, which the optimizer changes, and `"batch_stats"` where it has any.
        ema: their exponential moving average, which is what gets evaluated.
        opt_state: of the optimizer.
    """

    step: Array
    variables: dict[str, Any]
    ema: dict[str, Any]
    opt_state: Any


TrainStep = Callable[[TrainState, Mapping[str, Any], Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]


def make_init(model: ViT, tx: optax.GradientTransformation, seed: int) -> Callable[..., TrainState]:
    """A function that makes the first state, from the variables it is given or freshly drawn ones."""

    def init(variables: dict[str, Any] | None = None) -> TrainState:
        fresh = variables
        if fresh is None:
            images = jnp.zeros((1, *model.img_size, model.in_chans))
            fresh = dict(model.init(jax.random.key(seed), images))
        return TrainState(jnp.zeros((), jnp.int32), fresh, jax.tree.map(jnp.copy, fresh), tx.init(fresh["params"]))

    return init


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
) -> TrainStep:
    """A compiled function from a state, the teacher's variables and a global batch to the next state and its metrics.

    The batch is cut over all devices. Where parameters are whole on each of them, the gradient's mean is the only thing
    they exchange, once a step whatever `accumulate`; where they are shared (see `sharding`), a device gathers them and
    gets back its part of that mean. Batch norm adds its statistics, which are those of the whole batch, and the norm of
    shared gradients its sum. Random choices are a function of (seed, step, row), and not of the number of devices. The
    state that goes in is given up.

    Metrics are `loss`, `grad_norm` and the loss of every row, `row_loss [B]`.

    Args:
        objective: what is minimized.
        tx: the optimizer.
        mesh: of `sharding.make_mesh`.
        seed: of all random choices.
        ema_decay: of the averages.
        accumulate: micro-batches of a device, one after another: their mean is that of the whole, but that each has
            batch statistics of its own.
    """
    shapes, table = jax.eval_shape(make_init(objective.model, tx, seed)), objective.model.PARAMETERS
    placed, whole, cut = (
        sharding.shardings(shapes, mesh, table),
        sharding.replicated(mesh),
        sharding.batch_sharding(mesh),
    )
    gradients_of = _make_gradients(objective, mesh, sharding.specs(shapes.variables, mesh, table), accumulate)

    def train_step(
        state: TrainState, teacher_variables: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, row_loss, statistics, gradients = gradients_of(state.variables, teacher_variables, batch, key)
        params = state.variables["params"]
        updates, opt_state = tx.update(gradients, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **statistics}
        # A young average forgets faster, or it would remember the random start for most of a short run.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema: Any = optax.incremental_update(variables, state.ema, 1 - decay)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradients), "row_loss": row_loss}
        return TrainState(state.step + 1, variables, ema, opt_state), metrics

    metrics = {"loss": whole, "grad_norm": whole, "row_loss": cut}
    return jax.jit(train_step, in_shardings=(placed, whole, cut), out_shardings=(placed, metrics), donate_argnums=0)


def _make_gradients(objective: Objective, mesh: Mesh, specs: Any, accumulate: int) -> Callable[..., Any]:
    """A function to `(loss, row_loss [B], statistics, gradients)`; inside, every device sees its own rows alone."""
    axes = mesh.axis_names

    def local(variables: Any, teacher_variables: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Any:
        params, statistics = _gathered(variables["params"], specs["params"]), _without_params(variables)
        here = batch["label"].shape[0]
        total = here * mesh.size
        numbers = jax.lax.axis_index(axes) * here + jnp.arange(here)

        def split(x: Array) -> Array:
            return x.reshape(accumulate, -1, *x.shape[1:])

        micro = jax.tree.map(split, (batch, numbers))

        def add(
            before: tuple[Any, Any], part: tuple[Mapping[str, Array], Int[Array, " b"]]
        ) -> tuple[tuple[Any, Any], Float[Array, " b"]]:
            (statistics, total_gradients), (images, numbers) = before, part

            def mean_loss(params: Any) -> tuple[Float[Array, ""], Any]:
                variables = {"params": params, **statistics}
                found, moved = objective(variables, teacher_variables, images, key, Rows(numbers, total))
                # A sum over all rows of all devices, each of which weighs the same.
                return found.sum() / total, (found, moved)

            (_, (found, moved)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
            return (moved, jax.tree.map(jnp.add, total_gradients, gradients)), found

        none: Any = optax.tree.zeros_like(params)
        (statistics, gradients), row_loss = jax.lax.scan(add, (statistics, none), micro)
        row_loss = row_loss.reshape(-1)
        loss = cast(Array, jax.lax.psum(row_loss.sum() / total, axes))
        return loss, row_loss, statistics, _reduced(gradients, specs["params"], axes)

    rows_spec = PartitionSpec(axes)
    statistics = _without_params(specs)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(specs, PartitionSpec(), rows_spec, PartitionSpec()),
        out_specs=(PartitionSpec(), rows_spec, statistics, specs["params"]), check_vma=False,
    )  # fmt: skip


def _without_params(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: values for kind, values in variables.items() if kind != "params"}


def _shared_axis(spec: PartitionSpec) -> int | None:
    return next((axis for axis, name in enumerate(spec) if name), None)


def _gathered(params: Any, specs: Any) -> Any:
    """Every parameter whole, from the parts that the devices of `model` have."""

    def whole(spec: PartitionSpec, part: Array) -> Array:
        axis = _shared_axis(spec)
        return part if axis is None else cast(Array, jax.lax.all_gather(part, "model", axis=axis, tiled=True))

    return jax.tree.map(whole, specs, params, is_leaf=_is_spec)


def _reduced(gradients: Any, specs: Any, axes: tuple[str, ...]) -> Any:
    """The sum of the devices' gradients, of a shared parameter each one's own part of it."""

    def scattered(spec: PartitionSpec, gradient: Array) -> Array:
        axis = _shared_axis(spec)
        if axis is None:
            return gradient
        return cast(Array, jax.lax.psum_scatter(gradient, "model", scatter_dimension=axis, tiled=True))

    others = tuple(axis for axis in axes if axis != "model")

    def summed(spec: PartitionSpec, part: Array) -> Array:
        return cast(Array, jax.lax.psum(part, axes if _shared_axis(spec) is None else others))

    parts = jax.tree.map(scattered, specs, gradients, is_leaf=_is_spec)
    return jax.tree.map(summed, specs, parts, is_leaf=_is_spec)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)

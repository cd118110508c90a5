"""The training state and the compiled training step."""

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
    """The training state.

    Attributes:
        step: int32 scalar, the number of steps taken.
        variables: The model's float32 variables: `"params"`, and `"batch_stats"` if it has batch norm.
        ema: Their exponential moving average, which is evaluated.
        opt_state: The optimizer state.
    """

    step: Array
    variables: dict[str, Any]
    ema: dict[str, Any]
    opt_state: Any


TrainStep = Callable[[TrainState, Mapping[str, Any], Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]


def make_init(model: ViT, tx: optax.GradientTransformation, seed: int) -> Callable[..., TrainState]:
    """Return a function that creates the initial training state.

    Args:
        model: The model.
        tx: The optimizer.
        seed: The seed of the random initialization.

    Returns:
        A function from optional variables to a `TrainState`. Without variables, they are initialized randomly.
    """

    def init(variables: dict[str, Any] | None = None) -> TrainState:
        if variables is None:
            images = jnp.zeros((1, *model.img_size, model.in_chans), jnp.float32)
            variables = dict(model.init(jax.random.key(seed), images))
        return TrainState(
            jnp.zeros((), jnp.int32), variables, jax.tree.map(jnp.copy, variables), tx.init(variables["params"])
        )

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
    """Return the compiled training step.

    The batch is sharded over all devices. With replicated parameters, the only communication is the reduction of the
    mean gradient and the loss, once per step for any `accumulate`. Sharded parameters (see `sharding`) are
    all-gathered, and their gradients reduce-scattered. Batch norm adds a reduction of its statistics, which are those
    of the global batch, and sharded gradients one of their norm. Random numbers are a function of (seed, step, row) and
    do not depend on the number of devices. The input state is donated.

    Args:
        objective: The training objective.
        tx: The optimizer.
        mesh: The device mesh, from `sharding.make_mesh`.
        seed: The seed of all random numbers.
        ema_decay: The decay of the moving averages.
        accumulate: The number of micro-batches per device, processed in sequence. The gradient is that of the full
            batch, except that each micro-batch has its own batch statistics.

    Returns:
        A function from a state, the teacher's variables and a global batch to the next state and the metrics: `loss`,
        `grad_norm`, and the loss of every row, `row_loss [B]`.
    """
    shapes, table = jax.eval_shape(make_init(objective.model, tx, seed)), objective.model.PARAMETERS
    state_sharding = sharding.shardings(shapes, mesh, table)
    replicated, batch_sharding = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    compute_gradients = _make_gradients(objective, mesh, sharding.specs(shapes.variables, mesh, table), accumulate)

    def train_step(
        state: TrainState, teacher_variables: Mapping[str, Any], batch: Mapping[str, Array]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, row_loss, statistics, gradients = compute_gradients(state.variables, teacher_variables, batch, key)
        params = state.variables["params"]
        # Optax raises a float to an integer power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **statistics}
        # The decay starts small; otherwise the random initialization would dominate the average of a short run.
        step = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        ema: Any = optax.incremental_update(variables, state.ema, 1 - decay)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradients), "row_loss": row_loss}
        return TrainState(state.step + 1, variables, ema, opt_state), metrics

    metrics_sharding = {"loss": replicated, "grad_norm": replicated, "row_loss": batch_sharding}
    return jax.jit(
        train_step, in_shardings=(state_sharding, replicated, batch_sharding),
        out_shardings=(state_sharding, metrics_sharding), donate_argnums=0,
    )  # fmt: skip


def _make_gradients(objective: Objective, mesh: Mesh, specs: Any, accumulate: int) -> Callable[..., Any]:
    """Return a function that computes `(loss, row_loss [B], statistics, gradients)`, with one shard of rows per device.

    Args:
        objective: The training objective.
        mesh: The device mesh.
        specs: The partition specs of the variables.
        accumulate: The number of micro-batches per device.
    """
    axes = mesh.axis_names

    def compute_local(variables: Any, teacher_variables: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Any:
        params, statistics = _gather_params(variables["params"], specs["params"]), _without_params(variables)
        local_rows = batch["label"].shape[0]
        total_rows = local_rows * mesh.size
        numbers = jax.lax.axis_index(axes) * local_rows + jnp.arange(local_rows, dtype=jnp.int32)

        def split(x: Array) -> Array:
            return x.reshape(accumulate, -1, *x.shape[1:])

        micro_batches = jax.tree.map(split, (batch, numbers))

        def accumulate_gradients(
            carry: tuple[Any, Any], micro_batch: tuple[Mapping[str, Array], Int[Array, " b"]]
        ) -> tuple[tuple[Any, Any], Float[Array, " b"]]:
            (statistics, total_gradients), (images, numbers) = carry, micro_batch

            def mean_loss(params: Any) -> tuple[Float[Array, ""], Any]:
                variables = {"params": params, **statistics}
                row_loss, new_statistics = objective(
                    variables, teacher_variables, images, key, Rows(numbers, total_rows)
                )
                # Divide by the global number of rows, so that the sum over devices is the mean.
                return row_loss.sum() / total_rows, (row_loss, new_statistics)

            (_, (row_loss, new_statistics)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
            return (new_statistics, jax.tree.map(jnp.add, total_gradients, gradients)), row_loss

        zeros: Any = optax.tree.zeros_like(params)
        (statistics, gradients), row_loss = jax.lax.scan(accumulate_gradients, (statistics, zeros), micro_batches)
        row_loss = row_loss.reshape(-1)
        loss = cast(Array, jax.lax.psum(row_loss.sum() / total_rows, axes))
        return loss, row_loss, statistics, _reduce_gradients(gradients, specs["params"], axes)

    rows_spec = PartitionSpec(axes)
    statistics = _without_params(specs)
    return jax.shard_map(
        compute_local, mesh=mesh, in_specs=(specs, PartitionSpec(), rows_spec, PartitionSpec()),
        out_specs=(PartitionSpec(), rows_spec, statistics, specs["params"]), check_vma=False,
    )  # fmt: skip


def _without_params(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: values for kind, values in variables.items() if kind != "params"}


def _sharded_axis(spec: PartitionSpec) -> int | None:
    return next((axis for axis, name in enumerate(spec) if name), None)


def _gather_params(params: Any, specs: Any) -> Any:
    """Gather every parameter from its shards along the mesh axis `model`."""

    def gather(spec: PartitionSpec, shard: Array) -> Array:
        axis = _sharded_axis(spec)
        return shard if axis is None else cast(Array, jax.lax.all_gather(shard, "model", axis=axis, tiled=True))

    return jax.tree.map(gather, specs, params, is_leaf=_is_spec)


def _reduce_gradients(gradients: Any, specs: Any, axes: tuple[str, ...]) -> Any:
    """Sum the gradients over all devices; each device keeps its shard of the gradient of a sharded parameter."""

    def scatter(spec: PartitionSpec, gradient: Array) -> Array:
        axis = _sharded_axis(spec)
        if axis is None:
            return gradient
        return cast(Array, jax.lax.psum_scatter(gradient, "model", scatter_dimension=axis, tiled=True))

    other_axes = tuple(axis for axis in axes if axis != "model")

    def reduce(spec: PartitionSpec, shard: Array) -> Array:
        return cast(Array, jax.lax.psum(shard, axes if _sharded_axis(spec) is None else other_axes))

    shards = jax.tree.map(scatter, specs, gradients, is_leaf=_is_spec)
    return jax.tree.map(reduce, specs, shards, is_leaf=_is_spec)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)

"""Exact evaluation: every example of a split counted once, whatever the batch size and the number of devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int32, Shaped

from tcvit_jax import sharding
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.ops.images import normalize

Batch = Mapping[str, Shaped[Array, "B ..."]]
EvalStep = Callable[[Any, Batch], dict[str, Shaped[Array, ""]]]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found; counts are exact integers, rates their quotients.

    Attributes:
        top1, top5: the share of examples whose label has the highest logit, or one of the five highest.
        loss: mean cross-entropy, without label smoothing.
        examples: how many were counted.
        images_per_second: forward passes of full batches on all devices, transfers included, the first batch (which
            compiles) left out; `nan` where there was no other.
    """

    top1: float
    top5: float
    loss: float
    examples: int
    images_per_second: float

    def __str__(self) -> str:
        right = round(self.top1 * self.examples)
        return f"top1 {self.top1:.6f} ({right}/{self.examples})  top5 {self.top5:.6f}  loss {self.loss:.4f}"


def label_rank(logits: Float[Array, "B classes"], label: Int[Array, " B"]) -> Int32[Array, " B"]:
    """How many classes come before the label, `[B]` int32: 0 means top-1.

    Exact, and without a sort: those with a greater logit, and among equals those of a lower index, as `argmax` has it.
    A NaN comes before everything, so that a broken model is wrong and not right.

    Args:
        logits: `[B, classes]`.
        label: `[B]` int.
    """
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    index = jnp.arange(logits.shape[-1])
    others = index != label[:, None]
    before = ~(logits <= own) | ((logits == own) & (index < label[:, None]))
    return (before & others).sum(-1, dtype=jnp.int32)


def compute_logits(model: ViT, preprocessing: Preprocessing, variables: Any, batch: Batch) -> Float[Array, "B classes"]:
    """`[B, num_classes]` of the uint8 images of a batch."""
    images = normalize(batch["image"], preprocessing.mean, preprocessing.std)
    return cast(Array, model.apply(variables, images))


def make_rank_step(model: ViT, preprocessing: Preprocessing, mesh: Mesh) -> Callable[[Any, Batch], Int32[Array, " B"]]:
    """A compiled function from variables and one batch to every label's rank (see `label_rank`), `[B]` int32."""

    def rank_step(variables: Any, batch: Batch) -> Int32[Array, " B"]:
        return label_rank(compute_logits(model, preprocessing, variables, batch), batch["label"])

    whole = sharding.replicated(mesh)
    return jax.jit(rank_step, in_shardings=(whole, sharding.batch_sharding(mesh)), out_shardings=whole)


def make_eval_step(model: ViT, preprocessing: Preprocessing, mesh: Mesh) -> EvalStep:
    """A compiled function from variables and one masked batch to its sums: `top1`, `top5`, `loss`, `examples`."""

    def eval_step(variables: Any, batch: Batch) -> dict[str, Shaped[Array, ""]]:
        logits = compute_logits(model, preprocessing, variables, batch)
        counted = batch["mask"] > 0
        rank = label_rank(logits, batch["label"])
        # Optax subtracts in another order: a fifth of the losses would differ in their last digits.
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=-1)[:, 0]
        return {
            "top1": (counted & (rank < 1)).sum(dtype=jnp.int32),
            "top5": (counted & (rank < 5)).sum(dtype=jnp.int32),
            "loss": jnp.where(counted, loss, 0).sum(),
            "examples": counted.sum(dtype=jnp.int32),
        }

    whole = sharding.replicated(mesh)
    return jax.jit(eval_step, in_shardings=(whole, sharding.batch_sharding(mesh)), out_shardings=whole)


class EvaluationStopped(Exception):
    """An evaluation that was asked to end before its last batch."""


def evaluate(
    step: EvalStep,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> EvaluationResult:
    """Run `step` over all of `batches` (from `data.eval_batches`) and divide the sums.

    Args:
        step: from `make_eval_step`.
        variables: the model's, whole on every device of the mesh.
        batches: this process's part of each.
        mesh: the devices.
        stop: asked after every batch whether to end early.

    Raises:
        EvaluationStopped: `stop` said so.
        InputError: no example at all.
    """
    totals = {"top1": 0, "top5": 0, "loss": 0.0, "examples": 0}
    seconds, timed = 0.0, 0
    for index, batch in enumerate(batches):
        start = time.perf_counter()
        sums = jax.device_get(step(variables, sharding.place(batch, mesh)))
        if index:
            seconds += time.perf_counter() - start
            timed += len(batch["mask"]) * jax.process_count()
        totals = {key: totals[key] + sums[key].item() for key in totals}
        if stop():
            raise EvaluationStopped
    examples = totals["examples"]
    if not examples:
        raise InputError("the evaluation split holds no example")
    return EvaluationResult(
        top1=totals["top1"] / examples,
        top5=totals["top5"] / examples,
        loss=totals["loss"] / examples,
        examples=examples,
        images_per_second=timed / seconds if timed else float("nan"),
    )

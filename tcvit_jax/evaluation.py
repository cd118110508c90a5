"""Exact evaluation: every example counts once, for any batch size and any number of devices."""

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
from jaxtyping import Bool, Float, Int, Int32, Shaped

from tcvit_jax import sharding
from tcvit_jax.errors import invalid
from tcvit_jax.models import ViT, check_variables
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.ops.images import normalize

Batch = Mapping[str, Shaped[Array, "B ..."]]
EvalStep = Callable[[Any, Batch], dict[str, Shaped[Array, ""]]]


@dataclass(frozen=True)
class EvaluationResult:
    """Accuracy, loss and speed of an evaluation.

    Attributes:
        top1: The top-1 accuracy, in [0, 1]: an exact count divided by `examples`.
        top5: The top-5 accuracy, in [0, 1].
        loss: The mean cross-entropy, without label smoothing.
        examples: The number of examples.
        images_per_second: The throughput of all devices, including transfers and excluding the first batch, which
            compiles; NaN if there is only one batch.
        nonfinite: The number of examples with a logit that is NaN or infinite, whose predictions mean nothing.
    """

    top1: float
    top5: float
    loss: float
    examples: int
    images_per_second: float
    nonfinite: int = 0

    def __str__(self) -> str:
        correct = round(self.top1 * self.examples)
        text = f"top1 {self.top1:.6f} ({correct}/{self.examples})  top5 {self.top5:.6f}  loss {self.loss:.4f}"
        return f"{text}  {describe_nonfinite(self.nonfinite, self.examples)}" if self.nonfinite else text


def describe_nonfinite(nonfinite: int, examples: int, outputs: str = "logits") -> str:
    """Return a warning that some examples have outputs that are not finite."""
    return f"WARNING: {outputs} are not finite for {nonfinite:,} of {examples:,} images"


def label_rank(logits: Float[Array, "B classes"], label: Int[Array, " B"]) -> Int32[Array, " B"]:
    """Return the rank of each label among the logits, where 0 is top-1.

    The rank is the number of classes with a greater logit, or with an equal logit and a lower index, as in `argmax`. It
    is exact and computed without sorting. A NaN ranks before every number, so that a model with NaN logits is never
    correct.

    Args:
        logits: The logits, `[B, classes]`.
        label: The labels, `[B]` int.

    Returns:
        The ranks, `[B]` int32.
    """
    label_logit = jnp.take_along_axis(logits, label[:, None], axis=-1)
    index = jnp.arange(logits.shape[-1], dtype=label.dtype)[None]
    others = index != label[:, None]
    before = ~(logits <= label_logit) | ((logits == label_logit) & (index < label[:, None]))
    return (before & others).sum(-1, dtype=jnp.int32)


def compute_logits(model: ViT, preprocessing: Preprocessing, variables: Any, batch: Batch) -> Float[Array, "B classes"]:
    """Return the logits, `[B, num_classes]`, of the uint8 images of a batch.

    Raises:
        InputError: The variables are not those of the model.
    """
    check_variables(model, variables)
    images = normalize(batch["image"], preprocessing.mean, preprocessing.std)
    return cast(Array, model.apply(variables, images))


def make_rank_step(
    model: ViT, preprocessing: Preprocessing, mesh: Mesh
) -> Callable[[Any, Batch], tuple[Int32[Array, " B"], Bool[Array, " B"]]]:
    """Return a compiled function that computes the rank of each label in a batch.

    Args:
        model: The model.
        preprocessing: The normalization of its images.
        mesh: The device mesh.

    Returns:
        A function of `(variables, batch)` that returns ranks, `[B]` int32, as `label_rank`, and whether all logits of
        an image are finite, `[B]` bool.
    """

    def rank_step(variables: Any, batch: Batch) -> tuple[Int32[Array, " B"], Bool[Array, " B"]]:
        logits = compute_logits(model, preprocessing, variables, batch)
        return label_rank(logits, batch["label"]), jnp.isfinite(logits).all(-1)

    replicated = sharding.replicated(mesh)
    return jax.jit(rank_step, in_shardings=(replicated, sharding.batch_sharding(mesh)), out_shardings=replicated)


def make_eval_step(model: ViT, preprocessing: Preprocessing, mesh: Mesh) -> EvalStep:
    """Return a compiled function that sums the metrics over a masked batch.

    Args:
        model: The model.
        preprocessing: The normalization of its images.
        mesh: The device mesh.

    Returns:
        A function of `(variables, batch)` that returns the sums `top1`, `top5`, `loss`, `examples` and `nonfinite`.
    """

    def eval_step(variables: Any, batch: Batch) -> dict[str, Shaped[Array, ""]]:
        logits = compute_logits(model, preprocessing, variables, batch)
        is_valid = batch["mask"] > 0
        rank = label_rank(logits, batch["label"])
        # Optax subtracts in another order, and a fifth of the losses would differ in their last digits.
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=-1)[:, 0]
        return {
            "top1": (is_valid & (rank < 1)).sum(dtype=jnp.int32),
            "top5": (is_valid & (rank < 5)).sum(dtype=jnp.int32),
            "loss": jnp.where(is_valid, loss, 0).sum(),
            "examples": is_valid.sum(dtype=jnp.int32),
            "nonfinite": (is_valid & ~jnp.isfinite(logits).all(-1)).sum(dtype=jnp.int32),
        }

    replicated = sharding.replicated(mesh)
    return jax.jit(eval_step, in_shardings=(replicated, sharding.batch_sharding(mesh)), out_shardings=replicated)


class EvaluationStopped(Exception):
    """Raised by `evaluate` when `stop` ends it before the last batch."""


def evaluate(
    step: EvalStep,
    variables: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh: Mesh,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], object] = lambda images: None,
) -> EvaluationResult:
    """Evaluate a model on all batches.

    Args:
        step: A function from `make_eval_step`.
        variables: The variables of the model, replicated over the mesh.
        batches: This process's part of each batch, from `data.eval_batches`.
        mesh: The device mesh.
        stop: Called after every batch; returns whether to stop early.
        progress: Called after every batch with the number of images that are done, including padding.

    Returns:
        The result over all examples.

    Raises:
        EvaluationStopped: `stop` returned True.
        InputError: There are no examples.
    """
    totals = {"top1": 0, "top5": 0, "loss": 0.0, "examples": 0, "nonfinite": 0}
    seconds, timed_images = 0.0, 0
    for index, batch in enumerate(batches):
        start = time.perf_counter()
        sums = jax.device_get(step(variables, sharding.place(batch, mesh)))
        if index:
            seconds += time.perf_counter() - start
            timed_images += len(batch["mask"]) * jax.process_count()
        totals = {key: totals[key] + sums[key].item() for key in totals}
        progress((index + 1) * len(batch["mask"]) * jax.process_count())
        if stop():
            raise EvaluationStopped
    examples = totals["examples"]
    if not examples:
        raise invalid("evaluation split", "expected at least one example, got 0")
    return EvaluationResult(
        top1=totals["top1"] / examples,
        top5=totals["top5"] / examples,
        loss=totals["loss"] / examples,
        examples=examples,
        images_per_second=timed_images / seconds if timed_images else float("nan"),
        nonfinite=totals["nonfinite"],
    )

"""Linear probe: a linear classifier of frozen features, trained on the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from tcvit_jax.errors import invalid, unknown
from tcvit_jax.evaluation import label_rank
from tcvit_jax.tasks.features import FeatureOutputs, FeatureTask
from tcvit_jax.tasks.scores import Scores

PROBES = ("ridge", "logistic")
# Strengths of the regularization, relative to the mean squared error or cross-entropy of one image; strong ones first.
STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))
MAX_STEPS = 200
# Of the training images, one in five chooses the strength.
FOLDS = 5
_TOLERANCE = 1e-5
_BLOCK = 8192


@dataclass(frozen=True)
class Linear(FeatureTask):
    """Accuracy of a linear probe.

    Features are standardized on the training images. The strength of the regularization is the one of `STRENGTHS` with
    the highest accuracy on a fifth of the training images, and among equal ones the strongest; then all of them are
    fitted.

    Attributes:
        probe: `"ridge"` for least squares on one-hot labels, in closed form, or `"logistic"` for cross-entropy,
            minimized by L-BFGS.
    """

    NAME: ClassVar[str] = "linear"
    METRICS: ClassVar[tuple[str, ...]] = ("top1", "top5", "cosine")

    probe: str = "ridge"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe not in PROBES:
            raise unknown("--probe", self.probe, PROBES)

    @property
    def uses_train_data(self) -> bool:
        """Whether the task reads training images."""
        return True

    def scores(self, outputs: FeatureOutputs, reference: FeatureOutputs | None) -> Scores:
        """Return top-1 and top-5 hits, and the cosines with the features of the dense model."""
        assert reference is not None and outputs.train_images is not None
        images, train = outputs.images, outputs.train_images
        ranks = np.stack([
            probe_ranks(values, images.labels, train_values, train.labels, images.classes, self.probe)
            for values, train_values in zip(images.values, train.values, strict=True)
        ])  # fmt: skip
        metrics = {"top1": (ranks < 1) & images.is_finite, "top5": (ranks < 5) & images.is_finite}
        return Scores({**metrics, "cosine": images.cosine(reference.images)}, images.nonfinite)


# A function of features `[N, D]`, labels `[N]` and the number of classes that returns a function of a strength, which
# returns weights `[D, classes]` and biases `[classes]`.
_Fit = Callable[[np.ndarray, np.ndarray, int], Callable[[float], tuple[np.ndarray, np.ndarray]]]


def probe_ranks(
    features: np.ndarray,
    labels: np.ndarray,
    train_features: np.ndarray,
    train_labels: np.ndarray,
    classes: int,
    probe: str,
) -> np.ndarray:
    """Return the rank of the label of each image among the logits of a linear probe.

    Args:
        features: `[images, D]` float32.
        labels: `[images]` int32.
        train_features: `[N, D]` float32.
        train_labels: `[N]` int32.
        classes: The number of classes.
        probe: One of `PROBES`.

    Returns:
        `[images]` int32.

    Raises:
        InputError: There are fewer than ten training images.
    """
    if len(train_labels) < 2 * FOLDS:
        problem = f"expected at least {2 * FOLDS} training images, got {len(train_labels)}"
        raise invalid("--task linear", problem)
    mean, std = standardization(train_features)
    train = ((train_features - mean) / std).astype(np.float32)
    fit: _Fit = fit_ridge if probe == "ridge" else fit_logistic
    strength = choose_strength(fit, train, train_labels, classes)
    weights, biases = fit(train, train_labels, classes)(strength)
    return _ranks(((features - mean) / std).astype(np.float32), labels, weights, biases)


def standardization(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of features `[N, D]`, both `[D]` float64; 1 for a constant one."""
    mean = features.mean(0, dtype=np.float64)
    std = features.std(0, dtype=np.float64)
    return mean, np.where(std > 1e-8, std, 1.0)


def choose_strength(fit: _Fit, features: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Return the strength with the highest accuracy on a fifth of the training images, which does not train."""
    order = np.random.default_rng(0).permutation(len(labels))
    validation, rest = order[: len(order) // FOLDS], order[len(order) // FOLDS :]
    at = fit(features[rest], labels[rest], classes)
    hits = [(_ranks(features[validation], labels[validation], *at(strength)) < 1).sum() for strength in STRENGTHS]
    return STRENGTHS[int(np.argmax(hits))]


def _ranks(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> np.ndarray:
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(labels), _BLOCK))
    return np.concatenate([
        np.asarray(label_rank(jnp.asarray(features[block] @ weights + biases, jnp.float32), jnp.asarray(labels[block])))
        for block in blocks
    ])  # fmt: skip


def fit_ridge(
    features: np.ndarray, labels: np.ndarray, classes: int
) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """Return a function that solves ridge regression on one-hot labels for a strength, in float64.

    It minimizes `mean(|x W + b - y|^2) + strength * |W|^2`, where the intercept `b` is not regularized.

    Args:
        features: `[N, D]` float32.
        labels: `[N]` int32.
        classes: The number of classes.
    """
    count, width = features.shape
    mean = features.mean(0, dtype=np.float64)
    gram, products = np.zeros((width, width)), np.zeros((width, classes))
    for start in range(0, count, _BLOCK):
        centered = features[start : start + _BLOCK].astype(np.float64) - mean
        gram += centered.T @ centered
        np.add.at(products.T, labels[start : start + _BLOCK], centered)
    frequencies = np.bincount(labels, minlength=classes) / count
    # One decomposition serves all strengths.
    values, vectors = np.linalg.eigh(gram / count)
    projected = vectors.T @ (products / count)

    def solve(strength: float) -> tuple[np.ndarray, np.ndarray]:
        weights = vectors @ (projected / (np.maximum(values, 0) + strength)[:, None])
        return weights, frequencies - mean @ weights

    return solve


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, classes: int
) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """Return a function that fits multinomial logistic regression for a strength.

    It minimizes `mean(cross-entropy) + strength / 2 * |W|^2` by L-BFGS from zero, in float32, in at most `MAX_STEPS`
    steps.

    Args:
        features: `[N, D]` float32.
        labels: `[N]` int32.
        classes: The number of classes.
    """
    x, y = jnp.asarray(features), jnp.asarray(labels)

    def solve(strength: float) -> tuple[np.ndarray, np.ndarray]:
        weights, biases = jax.device_get(_minimize(x, y, jnp.float32(strength), classes=classes))
        return weights.astype(np.float64), biases.astype(np.float64)

    return solve


@partial(jax.jit, static_argnames="classes")
def _minimize(features: Array, labels: Array, strength: Array, *, classes: int) -> tuple[Array, Array]:
    optimizer = optax.lbfgs()

    def loss(params: tuple[Array, Array]) -> Array:
        weights, biases = params
        logits = jnp.matmul(features, weights, precision="highest") + biases[None]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return entropy + strength / 2 * (weights**2).sum()

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        params, state, count, _ = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(params, updates), state, count + 1, optax.tree.norm(gradient)

    def is_running(carry: Any) -> Array:
        return (carry[2] < MAX_STEPS) & (carry[3] > _TOLERANCE)

    zeros = jnp.zeros((features.shape[1], classes), jnp.float32), jnp.zeros(classes, jnp.float32)
    params, *_ = jax.lax.while_loop(is_running, step, (zeros, optimizer.init(zeros), 0, jnp.float32(jnp.inf)))
    return params

"""Image features: what a model's head pools, normalized to unit length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tcvit_jax.assembly import EvalData
from tcvit_jax.errors import requires, unknown
from tcvit_jax.models import ViT
from tcvit_jax.models.create import variable_shapes
from tcvit_jax.ops.images import normalize
from tcvit_jax.tasks.base import Forward, Subject, Task, compile_step, map_batches
from tcvit_jax.tasks.scores import count_nonfinite

FEATURES = ("pooled", "token", "avg")


@dataclass(frozen=True)
class Features:
    """Features of images.

    Attributes:
        values: `[weights, images, D]` float32 of unit length; zero where a feature is not finite.
        labels: `[images]` int32.
        is_finite: `[weights, images]` bool, whether all features of an image are finite.
        classes: The number of classes.
    """

    values: np.ndarray
    labels: np.ndarray
    is_finite: np.ndarray
    classes: int

    @property
    def nonfinite(self) -> int:
        """The number of images with a feature that is not finite, for any of the weights."""
        return count_nonfinite(self.is_finite)

    def cosine(self, reference: Features) -> np.ndarray:
        """Return the cosines between the features of each image and those of `reference`.

        Args:
            reference: The features of the same images by another model with the same weights.

        Returns:
            `[weights, images]` float32.
        """
        return np.einsum("wid,wid->wi", self.values, reference.values).astype(np.float32)


@dataclass(frozen=True)
class FeatureOutputs:
    """The features of the evaluation images and of the training images.

    Attributes:
        images: The features of the evaluation images.
        train_images: The features of the training images; None if the task reads none.
    """

    images: Features
    train_images: Features | None = None


@dataclass(frozen=True)
class FeatureTask(Task[FeatureOutputs]):
    """A task that reads one feature vector of each image.

    Attributes:
        feature: `"pooled"` for what the head pools; `"token"` for the class token or `"avg"` for the mean of the patch
            tokens, both after the final norm.
    """

    feature: str = "pooled"

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise unknown("--feature", self.feature, FEATURES)

    def check(self, model: ViT) -> None:
        """Check that the model has the feature.

        Raises:
            InputError: It does not.
        """
        feature_model(model, self.feature)

    def computed_macs(self, model: ViT) -> int:
        """Return the multiply-adds of `forward` for one image."""
        return feature_model(model, self.feature).cost().computed_macs

    def forward(self, model: ViT) -> Forward:
        """Return the features of images, `[B, D]` float32, which are not normalized."""
        featurizer = feature_model(model, self.feature)
        return lambda variables, images: cast(Array, featurizer.apply(feature_variables(featurizer, variables), images))

    def outputs(self, subject: Subject, mesh: Mesh) -> FeatureOutputs:
        """Return the features of all images."""
        images = self._extract(subject, subject.data, mesh)
        train_data = subject.train_data if self.uses_train_data else None
        return FeatureOutputs(images, None if train_data is None else self._extract(subject, train_data, mesh))

    def _extract(self, subject: Subject, data: EvalData, mesh: Mesh) -> Features:
        forward, preprocessing = self.forward(subject.model), subject.preprocessing

        def features(variables: Any, batch: Any) -> tuple[Array, Array]:
            values = forward(variables, normalize(batch["image"], preprocessing.mean, preprocessing.std))
            return unit_length(values), jnp.isfinite(values).all(-1)

        labels: list[np.ndarray] = []

        def batches() -> Any:
            for batch in data.batches():
                labels.append(batch["label"][batch["mask"] > 0])
                yield batch

        values, is_finite = map_batches(compile_step(features, mesh), subject, batches(), len(data.source), mesh)
        return Features(values, np.concatenate(labels), is_finite, len(data.source.classes))


def unit_length(values: Array) -> Array:
    """Return vectors `[..., D]` divided by their lengths; zero for a vector that is zero or not finite."""
    values = values.astype(jnp.float32)
    values = jnp.where(jnp.isfinite(values).all(-1, keepdims=True), values, 0)
    # Divided by the largest value first, whose square cannot overflow.
    values = values / jnp.maximum(jnp.abs(values).max(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    length = jnp.sqrt((values**2).sum(-1, keepdims=True))
    return values / jnp.where(length > 0, length, 1)


def feature_model(model: ViT, feature: str) -> ViT:
    """Return a model whose output is a feature: the same one without classifiers, and possibly with another pooling.

    Args:
        model: The model.
        feature: One of `FEATURES`.

    Raises:
        InputError: The model has no class token, or its pooling cannot be changed.
    """
    if feature == "pooled":
        return replace(model, num_classes=0)
    if model.HEAD_CLASS is not ViT.HEAD_CLASS:
        raise requires(f"--feature {feature}", "a model whose head pools tokens", "use --feature pooled")
    if feature == "token" and not model.class_token:
        raise requires("--feature token", "a model with a class token", "use --feature avg")
    # The final norm keeps the name of its parameters.
    has_fc_norm = model.fc_norm if model.fc_norm is not None else model.global_pool == "avg" and model.final_norm
    return replace(model, num_classes=0, global_pool=feature, fc_norm=has_fc_norm, dist_head=False)


def feature_variables(model: ViT, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that a model of `feature_model` has, out of those of the original model."""
    return _matching(variable_shapes(model), variables)


def _matching(shapes: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _matching(shape, variables[key]) if isinstance(shape, Mapping) else variables[key]
        for key, shape in shapes.items()
    }

"""Pretrained models, from checkpoints and from published weights, and their evaluation data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tcvit_jax import config as config_package
from tcvit_jax import loading, reducers, sharding
from tcvit_jax.assembly.architecture import build_model, build_preprocessing, load_weights, read_origin, reduce
from tcvit_jax.assembly.datasets import EvalData, build_eval_data
from tcvit_jax.assembly.records import Origin
from tcvit_jax.config import Config, Data, Reduction, restore
from tcvit_jax.errors import cannot_read, conflicts, requires
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing


@dataclass(frozen=True)
class Pretrained:
    """A model with pretrained weights and its configuration.

    Attributes:
        name: The path or name of the weights.
        config: The configuration, which determines the reduction and the evaluation data.
        model: The model, with the reduction of `config`.
        variables: The variables of the model.
        origin: What the weights record: their preprocessing, which `config.data` may change, and their data, which
            are compared with the evaluation data.
        load_dense: Loads the dense model and its variables again, for images of another size.
    """

    name: str
    config: Config
    model: ViT
    variables: dict[str, Any]
    origin: Origin
    load_dense: Callable[[tuple[int, int]], tuple[ViT, dict[str, Any]]] = field(compare=False, repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the evaluation images.

        Raises:
            InputError: `mean` or `std` does not have one value per channel, or neither the weights nor the
                configuration have the preprocessing.
        """
        base = self.origin.preprocessing or _require_preprocessing(self.name, self.config.data)
        return build_preprocessing(self.config.data, self.model, base)

    def eval_data(self, *, split: str = "", needs_classifier: bool = True) -> EvalData:
        """Return the evaluation split of the configuration.

        Args:
            split: Another split; empty for the evaluation split.
            needs_classifier: Whether the model classifies the images, so that it must have their classes.

        Raises:
            InputError: The data are not found or differ from the record, or the batch size is not a multiple of the
                number of devices.
        """
        batch_size = self.config.run.eval_batch_size
        sharding.check_divisible("eval_batch_size", batch_size, sharding.data_mesh())
        return build_eval_data(
            self.config.data, batch_size, self.model, self.preprocessing, self.origin.record, split=split,
            needs_classifier=needs_classifier,
        )  # fmt: skip

    def with_config(self, config: Config) -> Pretrained:
        """Return the same weights with the data and the reduction of another configuration.

        Args:
            config: The configuration; the architecture in it is ignored.

        Returns:
            The model with the new configuration.

        Raises:
            InputError: The reduction does not fit the model.
        """
        is_same = config.reduction == self.config.reduction
        return replace(self, config=config, model=self.model if is_same else reduce(self.model, config.reduction))

    def without_record(self) -> Pretrained:
        """Return the same weights, whose recorded data are not compared with those of the configuration."""
        return replace(self, origin=replace(self.origin, record=None))

    def updated(self, changes: Mapping[str, Any]) -> Pretrained:
        """Return the same weights with changed values of the configuration, by key (see `Config.updated`)."""
        return self.with_config(self.config.updated(changes))


def _require_preprocessing(name: str, data: Data) -> Preprocessing:
    """Return what the configuration leaves open of the preprocessing of weights that record none."""
    if None in (data.mean, data.std, data.interpolation) or data.crop_pct is data.resize is None:
        keys = ", ".join(f"--config.{Data.key(key)}" for key in ("mean", "std", "interpolation"))
        hint = f"add preprocessor_config.json, or set {keys} and --config.{Data.key('crop_pct')}"
        raise cannot_read(name, "no preprocessing in its metadata", hint)
    return Preprocessing()


def from_checkpoint(directory: str | Path, img_size: int | tuple[int, int] | None = None) -> Pretrained:
    """Load a checkpoint of a run, a converted checkpoint, or a directory or repository of transformers or timm.

    For a run, the averaged (EMA) parameters are loaded. Other sources have no configuration, so the data are those of
    ImageNet.

    Args:
        directory: A run directory, a checkpoint in one, a converted checkpoint, or another source of `tc.load` that
            describes its model.
        img_size: The size of the images, as for `tc.load`.

    Returns:
        The model with its weights.

    Raises:
        InputError: The source is not found or cannot be read.
    """
    model, variables, meta = loading.load(directory, img_size=img_size)
    saved_config = meta.get("config")
    if saved_config is None:
        saved_config = {"reducer": reducers.to_config(model.reducer), "schedule": list(model.removed) or 0}
    config = restore(saved_config, meta.get("versions", {}).get("tcvit_jax"))
    origin, load_dense = Origin.from_meta(str(directory), meta), partial(loading.load_dense, directory)
    return Pretrained(str(directory), config, model, variables, origin, load_dense)


def from_flags(
    flags: argparse.Namespace,
    checkpoints: Sequence[str],
    img_size: tuple[int, int] | None,
    command: str,
    keys: Sequence[str],
) -> list[Pretrained]:
    """Load the models of a command line: checkpoints, or a configuration file with its weights.

    Args:
        flags: The flags `config`, `weights`, `accept_data_changes` and `overrides`.
        checkpoints: Sources of `from_checkpoint`.
        img_size: The size of the images for checkpoints, as for `tc.load`.
        command: The command, for errors of keys that it does not read.
        keys: The keys of the configuration that it reads, besides those of the model of a configuration file.

    Returns:
        The models; none if neither checkpoints nor a configuration file are named.

    Raises:
        InputError: Both are named, weights are named without a configuration file, or as for `from_checkpoint` and
            `from_weights`.
    """
    if checkpoints and (flags.config or flags.weights):
        raise conflicts("--checkpoint", "--config or --weights", "a checkpoint holds both")
    if flags.weights and not flags.config:
        raise requires("--weights", "--config FILE")
    pretrained: list[Pretrained] = []
    if flags.config:
        scope = config_package.Scope(command, (*keys, "model.", "weights", "new_head"))
        weights = {"weights": flags.weights} if flags.weights else {}
        pretrained = [from_weights(config_package.load(flags.config, flags.overrides, scope, weights))]
    else:
        scope = config_package.Scope(command, tuple(keys))
        pretrained = [from_checkpoint(directory, img_size) for directory in checkpoints]
        pretrained = [
            each.with_config(config_package.override(each.config, flags.overrides, scope)) for each in pretrained
        ]
    return [each.without_record() for each in pretrained] if flags.accept_data_changes else pretrained


def from_weights(config: Config) -> Pretrained:
    """Build the model of a configuration and load its `weights`.

    Args:
        config: The configuration.

    Returns:
        The model with its weights.

    Raises:
        InputError: `weights` is not set, or the weights do not fit the model.
    """
    source = config.model.weights
    if not source:
        raise requires("a pretrained model", "weights", "set --weights FILE or --config.weights=FILE")
    model = build_model(config.model, config.reduction)
    variables, origin = load_weights(config.model, model), read_origin(config.model, model)

    def load_dense(img_size: tuple[int, int]) -> tuple[ViT, dict[str, Any]]:
        changed = config.updated({"model.img_size": img_size}).model
        dense = build_model(changed, Reduction())
        return dense, load_weights(changed, dense)

    return Pretrained(source, config, model, variables, origin, load_dense)

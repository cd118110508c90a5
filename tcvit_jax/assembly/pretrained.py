"""Trained models with their weights, from checkpoints and from published files, and what they are evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tcvit_jax import checkpoint, models, reducers, sharding
from tcvit_jax.assembly.architecture import build_model, build_preprocessing, load_weights, reduce
from tcvit_jax.assembly.datasets import EvalData, build_eval_data
from tcvit_jax.config import Config, restore
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.reducers import Reducer


@dataclass(frozen=True)
class Pretrained:
    """A model with trained weights, and the configuration that says how it is used.

    Attributes:
        name: where the weights come from.
        config: of the run that trained it, or of what evaluates it.
        model: as `config` reduces it.
        variables: of the model.
        base: the preprocessing of the weights; `config.data` may change it.
        classes: what it was trained to tell apart, in order; None where nothing says.
        seed: that it was trained with; None where nothing says.
        trained_with: the reducer that it was trained with; None for every token.
    """

    name: str
    config: Config
    model: ViT
    variables: dict[str, Any]
    base: Preprocessing
    classes: tuple[str, ...] | None = None
    seed: int | None = None
    trained_with: Reducer | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the images that it is evaluated on.

        Raises:
            InputError: `mean` or `std` for another number of channels than the model's.
        """
        return build_preprocessing(self.config.data, self.model, self.base)

    def eval_data(self) -> EvalData:
        """Return the evaluation split of the configuration.

        Raises:
            InputError: no such data, other classes than the model's, or a batch that the devices cannot share.
        """
        batch_size = self.config.run.eval_batch_size
        sharding.check_divisible("eval_batch_size", batch_size, sharding.data_mesh())
        return build_eval_data(
            self.config.data, batch_size, self.model, self.preprocessing, self.classes, repr(self.name)
        )

    def with_config(self, config: Config) -> Pretrained:
        """Return the same weights under another configuration, of which the data and the reduction are read.

        Raises:
            InputError: a reduction that does not fit the model.
        """
        same = config.reduction == self.config.reduction
        return replace(self, config=config, model=self.model if same else reduce(self.model, config.reduction))

    def updated(self, changes: Mapping[str, Any]) -> Pretrained:
        """Return the same weights with changes of the configuration by key (see `Config.updated`)."""
        return self.with_config(self.config.updated(changes))


def from_checkpoint(directory: str | Path) -> Pretrained:
    """Return the model of a checkpoint, of a run or converted.

    A run's averaged parameters are taken. A converted model has no configuration: its data are ImageNet's.

    Raises:
        InputError: no checkpoint, or one that cannot be read.
    """
    model, variables, meta = checkpoint.load(directory)
    saved = meta.get("config")
    if saved is None:
        saved = {"reducer": reducers.to_config(model.reducer), "schedule": list(model.removed) or 0}
    config = restore(saved, meta.get("versions", {}).get("tcvit_jax"))
    classes = None if meta["classes"] is None else tuple(meta["classes"])
    base = Preprocessing.from_config(meta["preprocessing"])
    return Pretrained(str(directory), config, model, variables, base, classes, meta.get("seed"), model.reducer)


def from_weights(config: Config) -> Pretrained:
    """Return the model of a configuration with its `weights`.

    Raises:
        InputError: no weights, or weights that do not fit.
    """
    source = config.model.weights
    if not source:
        raise InputError("no weights: set --weights FILE, or --config.weights=FILE")
    model = build_model(config.model, config.reduction)
    variables = load_weights(config.model, model)
    pretrained = Pretrained(source, config, model, variables, models.preprocessing(model.variant))
    if Path(source).is_dir():
        meta = checkpoint.read_meta(source)
        reducer = models.from_config(meta["model"]).reducer
        pretrained = replace(pretrained, seed=meta.get("seed"), trained_with=reducer)
    return pretrained

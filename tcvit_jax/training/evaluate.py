"""Evaluation as a command: of a checkpoint, which brings its own configuration, or of published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import config as configs
from tcvit_jax import convert, sharding
from tcvit_jax.checkpoint import load
from tcvit_jax.errors import InputError
from tcvit_jax.evaluation import Result, evaluate, make_eval_step
from tcvit_jax.measure import describe
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.training.experiment import build_eval_data, build_model, build_preprocessing, check_classes, condensed

# What may be said otherwise of a checkpoint, which brings its model, besides the data.
_OF_REDUCTION = ("--config.reducer.", "--config.schedule=", "--config.gmacs=", "--config.shape=")


def evaluate_checkpoint(directory: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Evaluate a checkpoint, of a run or converted, and print what was found.

    A run's averaged parameters are evaluated on its own evaluation split; a converted model on ImageNet's, unless
    `data.*` says otherwise.

    Args:
        directory: as for `load`.
        overrides: `--config.key=value` for `data.*`, `eval_batch_size`, and the reduction: `reducer.*`, `schedule`,
            `gmacs` and `shape`, which have no parameters.

    Raises:
        InputError: no checkpoint, an override that would change its parameters, or data with other classes.
    """
    for argument in overrides:
        if not argument.startswith(configs.OF_DATA + _OF_REDUCTION):
            raise InputError(
                f"cannot use {argument!r} with a checkpoint, which brings its model: only data.*, eval_batch_size, "
                "reducer.*, schedule, gmacs and shape"
            )
    model, variables, meta = load(directory)
    config = configs.override(configs.restored(meta.get("config", {})), overrides)
    if any(argument.startswith(_OF_REDUCTION) for argument in overrides):
        model = condensed(config, model)
        wanted = [argument for argument in overrides if argument.startswith(_OF_REDUCTION[1:])]
        if wanted and model.reducer is None:
            raise InputError(f"{wanted[0]!r} without a reducer removes nothing: add --config.reducer.name=gtp")
    preprocessing = build_preprocessing(config, model, Preprocessing.from_config(meta["preprocessing"]))
    classes = None if meta["classes"] is None else tuple(meta["classes"])
    return _evaluate(config, model, variables, preprocessing, classes)


def evaluate_weights(path: str, weights: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Evaluate published weights under a configuration, without any training, and print what was found."""
    config = configs.load(path, overrides)
    model = build_model(config)
    variables = convert.from_torch(convert.read_state_dict(weights), model, new_head=config.new_head)
    return _evaluate(config, model, variables, build_preprocessing(config, model))


def _evaluate(
    config: configs.Config,
    model: ViT,
    variables: dict[str, Any],
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None = None,
) -> Result:
    mesh = sharding.data_mesh()
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    data = build_eval_data(config, model, preprocessing)
    check_classes(config, data, classes, "the checkpoint")
    ledger = describe(model)
    print(f"model   {ledger.name}\n{ledger.summary()}", flush=True)
    step = make_eval_step(model, preprocessing, mesh)
    result = evaluate(step, sharding.place_whole(variables, mesh), data.batches(), mesh)
    print(f"{result}\n{result.images_per_second:,.0f} images per second", flush=True)
    return result

"""Evaluation as a command: of a checkpoint, which brings its own configuration, or of published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tcvit_jax import config as configs
from tcvit_jax import convert, sharding
from tcvit_jax.errors import InputError
from tcvit_jax.evaluation import Result, evaluate, make_eval_step
from tcvit_jax.measure import describe
from tcvit_jax.models import ViT
from tcvit_jax.training.checkpoint import load
from tcvit_jax.training.experiment import build_eval_data, build_model, build_preprocessing


def evaluate_checkpoint(directory: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Evaluate the averaged parameters of a checkpoint on its run's evaluation split, and print what was found.

    Args:
        directory: as for `checkpoint.load`.
        overrides: `--config.key=value` for `data.*` and `eval_batch_size`; the model is the checkpoint's.

    Raises:
        InputError: no checkpoint, an override that would change the model, or data with other classes.
    """
    for argument in overrides:
        if not argument.startswith(("--config.data.", "--config.eval_batch_size=")):
            raise InputError(
                f"cannot use {argument!r} with a checkpoint, which brings its model: only data.* and eval_batch_size"
            )
    model, variables, meta = load(directory)
    config = configs.override(ConfigDict(meta["config"]), overrides)
    return _evaluate(config, model, variables["params"], tuple(meta["classes"]))


def evaluate_weights(path: str, weights: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Evaluate published weights under a configuration, without any training, and print what was found."""
    config = configs.load(path, overrides)
    model = build_model(config)
    variables = convert.from_torch(convert.read_state_dict(weights), model)
    return _evaluate(config, model, variables["params"])


def _evaluate(config: configs.Config, model: ViT, params: Any, classes: tuple[str, ...] | None = None) -> Result:
    preprocessing = build_preprocessing(config, model)
    mesh = sharding.data_mesh()
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    data = build_eval_data(config, model, preprocessing)
    if classes is not None and data.source.classes != classes:
        raise InputError(f"dataset {config.data.name!r} has other classes than the checkpoint was trained on")
    ledger = describe(model)
    print(f"model   {ledger.name}\n{ledger.summary()}", flush=True)
    step = make_eval_step(model, preprocessing, mesh)
    result = evaluate(step, sharding.place_whole(params, mesh), data.batches(), mesh)
    print(f"{result}\n{result.images_per_second:,.0f} images per second", flush=True)
    return result

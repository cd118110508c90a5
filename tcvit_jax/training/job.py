"""Everything a run is made of, from its configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from tcvit_jax import convert, models, sharding
from tcvit_jax.config import Config
from tcvit_jax.errors import InputError
from tcvit_jax.measure import Ledger, describe
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.training import experiment, optimizer


@dataclass(frozen=True)
class Job:
    """Everything a run is made of, built and checked before anything is written or compiled."""

    config: Config
    model: ViT
    ledger: Ledger
    preprocessing: Preprocessing
    train_data: experiment.TrainData
    eval_data: experiment.EvalData
    mesh: Mesh
    total_steps: int
    rate: optax.Schedule
    tx: optax.GradientTransformation
    variables: dict[str, Any] | None

    def meta(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself (see `checkpoint.load`)."""
        return {
            "step": step,
            "seed": self.config.seed,
            "model": models.to_config(self.model),
            "preprocessing": asdict(self.preprocessing),
            "classes": list(self.train_data.source.classes),
            "config": self.config.to_dict(),
            "versions": {"jax": jax.__version__},
        }

    @property
    def eval_steps(self) -> int:
        """Steps between evaluations."""
        return max(1, self.train_data.steps(self.config.eval_every))


def build(config: Config) -> Job:
    """The job that a configuration describes; every mistake in it is raised here, before anything is compiled."""
    model = experiment.build_model(config)
    preprocessing = experiment.build_preprocessing(config, model)
    mesh = sharding.data_mesh()
    for key in ("batch_size", "eval_batch_size"):
        sharding.check_divisible(key, config[key], mesh)
    for key in ("log_every", "eval_every", "checkpoint_every", "epochs"):
        if not config[key] > 0:
            raise InputError(f"{key}={config[key]} is not positive")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed} is not in [0, 2**32)")
    if config.data.workers < 0:
        raise InputError(f"data.workers={config.data.workers} is negative: 0 decodes in this process")
    if not 0 <= config.label_smoothing < 1:
        raise InputError(f"label_smoothing={config.label_smoothing} is not in [0, 1)")
    models.parameter_shapes(model)  # traces the model: what only shows there is raised now
    variables = None
    if config.weights:
        state_dict = convert.read_state_dict(config.weights)
        variables = convert.from_torch(state_dict, model, new_head=config.new_head)
    train_data = experiment.build_train_data(config, model, preprocessing)
    eval_data = experiment.build_eval_data(config, model, preprocessing)
    total_steps = train_data.steps(config.epochs)
    if not total_steps:
        raise InputError(f"epochs={config.epochs} is less than half a step of {config.batch_size} images")
    rate = optimizer.learning_rate(config.optimizer, total_steps, len(train_data.source) / config.batch_size)
    return Job(
        config, model, describe(model), preprocessing, train_data, eval_data, mesh, total_steps, rate,
        optimizer.adamw(config.optimizer, rate), variables,
    )  # fmt: skip

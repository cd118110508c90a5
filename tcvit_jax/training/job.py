"""Everything a run is made of, from its configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax.sharding import Mesh

from tcvit_jax import __version__, assembly, models, sharding
from tcvit_jax.assembly import EvalData, TrainData
from tcvit_jax.config import Config
from tcvit_jax.errors import InputError
from tcvit_jax.measure import Ledger, describe
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.training import optimizer, recipe
from tcvit_jax.training.objective import Objective
from tcvit_jax.training.reduction_warmup import Stage, stages


@dataclass(frozen=True)
class Job:
    """Everything a run is made of, built and checked before anything is written or compiled.

    Attributes:
        config: what it was built from.
        objective: what is minimized.
        stages: the schedules of the run, one after another.
        ledger: the cost of the model.
        train_data, eval_data: the splits.
        mesh: the devices.
        total_steps: of the run.
        rate: steps taken to learning rate.
        tx: the optimizer.
        variables: those that the run starts from; None draws them.
        teacher_variables: the teacher's variables; empty without a teacher.
    """

    config: Config
    objective: Objective
    stages: tuple[Stage, ...]
    ledger: Ledger
    train_data: TrainData
    eval_data: EvalData
    mesh: Mesh
    total_steps: int
    rate: optax.Schedule
    tx: optax.GradientTransformation
    variables: dict[str, Any] | None
    teacher_variables: dict[str, Any]

    @property
    def model(self) -> ViT:
        """What is trained, and evaluated."""
        return self.objective.model

    @property
    def preprocessing(self) -> Preprocessing:
        """Of its images."""
        return self.objective.preprocessing

    def meta(self, step: int) -> dict[str, Any]:
        """What a checkpoint says of itself (see `checkpoint.load`)."""
        return {
            "step": step,
            "seed": self.config.run.seed,
            "model": models.to_config(self.model),
            "preprocessing": asdict(self.preprocessing),
            "classes": list(self.train_data.source.classes),
            "config": self.config.to_mapping(),
            "versions": {"jax": jax.__version__, "tcvit_jax": __version__},
        }

    @property
    def eval_steps(self) -> int:
        """Steps between evaluations."""
        return max(1, self.train_data.steps(self.config.run.eval_every))


def build(config: Config) -> Job:
    """Return the job that a configuration describes; every mistake in it is raised here, before anything is compiled.

    Raises:
        InputError: settings that do not fit each other, the data, the weights or the devices.
    """
    mesh, run = sharding.make_mesh(config.mesh.data, config.mesh.model), config.run
    found = recipe.build(config, mesh)
    model, preprocessing = found.model, found.objective.preprocessing
    variables = assembly.load_weights(config.model, model) if config.model.weights else None
    # A teacher that is this model without reduction has the weights that the run starts from.
    teacher_variables = (variables or {}) if found.teacher_variables is None else found.teacher_variables
    sharding.check_divisible("eval_batch_size", run.eval_batch_size, mesh)
    train_data = assembly.build_train_data(config.data, run, model, preprocessing)
    # What only the pipeline refuses is raised now; nothing is read before the first batch is asked for.
    train_data.batches(0)
    if found.teacher_classes is not None and found.teacher_classes != train_data.source.classes:
        raise InputError(f"distill.teacher={config.distill.teacher!r} knows other classes than the data have")
    eval_data = assembly.build_eval_data(config.data, run.eval_batch_size, model, preprocessing)
    total_steps = train_data.steps(run.epochs)
    if not total_steps:
        raise InputError(f"epochs={run.epochs} is less than half a step of {run.batch_size} images")
    steps_per_epoch = len(train_data.source) / run.batch_size
    rate = optimizer.learning_rate(config.optimizer, total_steps, steps_per_epoch, run.batch_size)
    tx = optimizer.adamw(config.optimizer, rate, model.PARAMETERS, model.depth)
    return Job(
        config, found.objective, stages(config.reduction_warmup, model, total_steps, steps_per_epoch), describe(model),
        train_data, eval_data, mesh, total_steps, rate, tx, variables, teacher_variables,
    )  # fmt: skip

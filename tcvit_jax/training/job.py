"""All parts of a training run, built from its configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import jax
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax.sharding import Mesh

from tcvit_jax import __version__, assembly, models, sharding
from tcvit_jax.assembly import DataRecord, EvalData, SplitRecord, TrainData
from tcvit_jax.config import Config
from tcvit_jax.errors import out_of_range
from tcvit_jax.measure import Ledger, describe
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.training import optimizer
from tcvit_jax.training import recipe as recipes
from tcvit_jax.training.objective import Objective
from tcvit_jax.training.reduction_warmup import Stage, stages


@dataclass(frozen=True)
class Job:
    """All parts of a training run, built and checked before anything is written or compiled.

    Attributes:
        config: The configuration of the run.
        objective: The training objective.
        stages: The reduction schedules of the run, in order.
        ledger: The cost of the model.
        train_data, eval_data: The data of the training and the evaluation split.
        mesh: The device mesh.
        total_steps: The number of steps of the run.
        lr_schedule: The learning rate as a function of the number of steps taken.
        tx: The optimizer.
        variables: The initial variables, or None to initialize them randomly.
        teacher_variables: The teacher's variables; empty without a teacher.
    """

    config: Config
    objective: Objective
    stages: tuple[Stage, ...]
    ledger: Ledger
    train_data: TrainData
    eval_data: EvalData
    mesh: Mesh
    total_steps: int
    lr_schedule: optax.Schedule
    tx: optax.GradientTransformation
    variables: dict[str, Any] | None
    teacher_variables: dict[str, Any]

    @property
    def model(self) -> ViT:
        """The model to train and evaluate."""
        return self.objective.model

    @cached_property
    def record(self) -> DataRecord:
        """The record of the data, for checkpoints."""
        data, source = self.config.data, self.train_data.source
        splits = (
            SplitRecord.from_source(data, data.train_split, source),
            SplitRecord.from_source(data, data.eval_split, self.eval_data.source),
        )
        return DataRecord(self.config.run.workdir, source.classes, splits)

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the model's images."""
        return self.objective.preprocessing

    def meta(self, step: int) -> dict[str, Any]:
        """Return the metadata of a checkpoint (see `checkpoint.load`).

        Args:
            step: The number of steps taken.
        """
        return {
            "step": step,
            "seed": self.config.run.seed,
            "model": models.to_config(self.model),
            "preprocessing": asdict(self.preprocessing),
            **self.record.to_meta(),
            "config": self.config.to_mapping(),
            "versions": {"jax": jax.__version__, "tcvit_jax": __version__},
        }

    def check_data(self, record: DataRecord) -> None:
        """Compare the data of the job with those of a checkpoint of the same run, whose data may have moved.

        Args:
            record: The data of the checkpoint.

        Raises:
            InputError: The data differ.
        """
        data = self.config.data
        record.check(data, data.train_split, self.train_data.source, is_moved=True)
        record.check(data, data.eval_split, self.eval_data.source, is_moved=True)

    @property
    def eval_steps(self) -> int:
        """The number of steps between evaluations."""
        return max(1, self.train_data.steps(self.config.run.eval_every))


def build(config: Config, accept_data_changes: bool = False) -> Job:
    """Build the job of a configuration. Errors in it are raised here, before anything is compiled.

    Args:
        config: The configuration.
        accept_data_changes: Whether to skip the comparison of the data with those that the initial weights and the
            teacher record.

    Raises:
        InputError: The settings do not fit each other, the data, the weights or the devices.
    """
    mesh, run = sharding.make_mesh(config.mesh.data, config.mesh.model), config.run
    recipe = recipes.build(config, mesh)
    model, preprocessing = recipe.model, recipe.objective.preprocessing
    variables = assembly.load_weights(config.model, model) if config.model.weights else None
    # In self-distillation the teacher has the initial weights of the run.
    teacher_variables = (variables or {}) if recipe.teacher_variables is None else recipe.teacher_variables
    sharding.check_divisible("eval_batch_size", run.eval_batch_size, mesh)
    train_data = assembly.build_train_data(config.data, run, model, preprocessing)
    # This raises the errors of the pipeline now; nothing is read before the first batch is requested.
    train_data.batches(0)
    eval_data = assembly.build_eval_data(config.data, run.eval_batch_size, model, preprocessing)
    for record in () if accept_data_changes else recipe.records:
        record.check(config.data, config.data.train_split, train_data.source)
        record.check(config.data, config.data.eval_split, eval_data.source)
    total_steps = train_data.steps(run.epochs)
    if not total_steps:
        raise out_of_range("epochs", run.epochs, f"large enough for one step of {run.batch_size} images")
    steps_per_epoch = len(train_data.source) / run.batch_size
    lr_schedule = optimizer.learning_rate(config.optimizer, total_steps, steps_per_epoch, run.batch_size)
    tx = optimizer.adamw(config.optimizer, lr_schedule, model.PARAMETERS, model.depth)
    return Job(
        config, recipe.objective, stages(config.reduction_warmup, model, total_steps, steps_per_epoch), describe(model),
        train_data, eval_data, mesh, total_steps, lr_schedule, tx, variables, teacher_variables,
    )  # fmt: skip

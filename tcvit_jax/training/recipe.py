"""The training recipe of a configuration: the model, its objective and its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from tcvit_jax import assembly, checkpoint, models, sharding
from tcvit_jax.assembly import DataRecord, Origin
from tcvit_jax.config import DENSE, Config, Distillation
from tcvit_jax.config import Mixing as MixingSection
from tcvit_jax.errors import InputError, invalid, requires
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher


@dataclass(frozen=True)
class Recipe:
    """The objective of a configuration, with the variables and the recorded data of the weights and the teacher.

    Attributes:
        objective: The objective, which holds the model.
        teacher_variables: The variables of a teacher that was loaded from a checkpoint; None if the teacher uses the
            initial variables of the run (self-distillation), and `{}` without a teacher.
        records: The data that the initial weights and the teacher record.
    """

    objective: Objective
    teacher_variables: dict[str, Any] | None
    records: tuple[DataRecord, ...]

    @property
    def model(self) -> ViT:
        """The model to train."""
        return self.objective.model


def build(config: Config, mesh: Mesh) -> Recipe:
    """Build the recipe of a configuration, and check that it can run on a mesh. Nothing is compiled.

    Args:
        config: The configuration.
        mesh: The device mesh.

    Raises:
        InputError: The settings do not fit each other, the model or the mesh, or the teacher cannot be loaded.
    """
    model = assembly.build_model(config.model, config.reduction)
    origin = assembly.read_origin(config.model, model)
    preprocessing = assembly.build_preprocessing(config.data, model, origin.preprocessing)
    # This traces the model, so that errors which only show there are raised now.
    sharding.check_shardable(models.parameter_shapes(model), mesh, model.PARAMETERS)
    teacher, variables, record = build_teacher(config.distill, config.mixing, model, preprocessing)
    objective = build_objective(config.mixing, model, preprocessing, teacher)
    rows = config.run.accumulate * (2 if objective.uses_pairs else 1)
    sharding.check_divisible("batch_size", config.run.batch_size, mesh, rows)
    return Recipe(objective, variables, tuple(each for each in (origin.record, record) if each is not None))


def build_objective(
    mixing: MixingSection, model: ViT, preprocessing: Preprocessing, teacher: Teacher | None
) -> Objective:
    """Build the objective of a configuration.

    Args:
        mixing: The `mixing` section of the configuration.
        model: The model to train.
        preprocessing: The preprocessing of its images.
        teacher: The teacher, or None.

    Raises:
        InputError: Token labels are set for a model without a head on its patch tokens.
    """
    if mixing.token_labels and not model.has_patch_logits:
        raise requires(
            f"token_labels={mixing.token_labels}", "a model with a head on its patch tokens",
            f"use lvvit_s instead of {model.variant}, for example",
        )  # fmt: skip
    return Objective(
        model, preprocessing, mixing.label_smoothing,
        Mixing(mixing.mixup, mixing.cutmix, mixing.prob, mixing.switch_prob), mixing.random_erasing, mixing.mix_token,
        mixing.token_labels, teacher,
    )  # fmt: skip


def build_teacher(
    distill: Distillation, mixing: MixingSection, model: ViT, preprocessing: Preprocessing
) -> tuple[Teacher | None, dict[str, Any] | None, DataRecord | None]:
    """Build the teacher of a configuration.

    Args:
        distill: The `distill` section of the configuration.
        mixing: The `mixing` section of the configuration.
        model: The student.
        preprocessing: The preprocessing of the student's images.

    Returns:
        The teacher, its variables as in `Recipe`, and the data that it records, if any.

    Raises:
        InputError: The teacher is not found, or does not fit the model.
    """
    name, settings = distill.teacher, (distill.kind, distill.weight, distill.temperature, distill.tokens)
    if not name:
        return None, {}, None
    if name == DENSE:
        return Teacher(models.condense(model), preprocessing, *settings), None, None
    try:
        teacher, variables, meta = checkpoint.load(name)
        origin, teacher_preprocessing = Origin.from_meta(name, meta), checkpoint.read_preprocessing(meta, name)
    except InputError as error:
        raise invalid("distill.teacher", str(error)) from error
    _check_teacher(name, teacher, model, compares_patches=distill.tokens > 0 or mixing.mix_token)
    return Teacher(teacher, teacher_preprocessing, *settings), variables, origin.record


def _check_teacher(name: str, teacher: ViT, model: ViT, compares_patches: bool) -> None:
    """Raise unless the teacher's images and classes, and its patches if they are compared, match the student's."""
    for key in ("img_size", "in_chans", "num_classes", *(("grid", "embed_dim") if compares_patches else ())):
        expected, actual = getattr(model, key), getattr(teacher, key)
        if actual != expected:
            raise invalid(
                f"distill.teacher={name!r}", f"expected {key}={expected}, got {actual}",
                "choose a teacher that matches the model",
            )  # fmt: skip

"""What a training step minimizes under a configuration: the model, its objective and its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from tcvit_jax import assembly, checkpoint, models, sharding
from tcvit_jax.config import DENSE, Config, Distillation
from tcvit_jax.config import Mixing as MixingSection
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher


@dataclass(frozen=True)
class Recipe:
    """The objective of a configuration, and what a teacher brings.

    Attributes:
        objective: what is minimized; it has the model.
        teacher_variables: of a teacher that is a checkpoint; None where the teacher is the model that the run starts
            from, and `{}` where there is none.
        teacher_classes: what a teacher was trained to tell apart; None where nothing says.
    """

    objective: Objective
    teacher_variables: dict[str, Any] | None
    teacher_classes: tuple[str, ...] | None

    @property
    def model(self) -> ViT:
        """What is trained."""
        return self.objective.model


def build(config: Config, mesh: Mesh) -> Recipe:
    """Return the recipe of a configuration, which the devices of a mesh can run; nothing is compiled.

    Raises:
        InputError: settings that do not fit each other, the model or the mesh, or a teacher that cannot be loaded.
    """
    model = assembly.build_model(config.model, config.reduction)
    preprocessing = assembly.build_preprocessing(config.data, model)
    # Traces the model: what only shows there is raised now.
    sharding.check_shardable(models.parameter_shapes(model), mesh, model.PARAMETERS)
    teacher, variables, classes = build_teacher(config.distill, config.mixing, model, preprocessing)
    objective = build_objective(config.mixing, model, preprocessing, teacher)
    rows = config.run.accumulate * (2 if objective.pairs else 1)
    sharding.check_divisible("batch_size", config.run.batch_size, mesh, rows)
    return Recipe(objective, variables, classes)


def build_objective(
    mixing: MixingSection, model: ViT, preprocessing: Preprocessing, teacher: Teacher | None
) -> Objective:
    """Return what a configuration minimizes.

    Raises:
        InputError: token labels for a model without a head on its patch tokens.
    """
    if mixing.token_labels and not model.has_patch_logits:
        raise InputError(
            f"token_labels={mixing.token_labels} requires a head on every patch token, which {model.variant} lacks: "
            "use lvvit_s, for example"
        )
    return Objective(
        model, preprocessing, mixing.label_smoothing,
        Mixing(mixing.mixup, mixing.cutmix, mixing.prob, mixing.switch_prob), mixing.random_erasing, mixing.mix_token,
        mixing.token_labels, teacher,
    )  # fmt: skip


def build_teacher(
    distill: Distillation, mixing: MixingSection, model: ViT, preprocessing: Preprocessing
) -> tuple[Teacher | None, dict[str, Any] | None, tuple[str, ...] | None]:
    """Return the teacher, its variables and its classes, as `Recipe` has them.

    Raises:
        InputError: no such teacher, or one that does not fit the model.
    """
    name, settings = distill.teacher, (distill.kind, distill.weight, distill.temperature, distill.tokens)
    if not name:
        return None, {}, None
    if name == DENSE:
        return Teacher(models.condense(model), preprocessing, *settings), None, None
    try:
        teacher, variables, meta = checkpoint.load(name)
    except InputError as error:
        raise InputError(f"distill.teacher={name!r}: {error}") from error
    _check_teacher(name, teacher, model, compares_patches=distill.tokens > 0 or mixing.mix_token)
    classes = None if meta["classes"] is None else tuple(meta["classes"])
    return Teacher(teacher, Preprocessing.from_config(meta["preprocessing"]), *settings), variables, classes


def _check_teacher(name: str, teacher: ViT, model: ViT, compares_patches: bool) -> None:
    """Raise unless a teacher takes the student's images and has its classes; where patches are compared, theirs too."""
    for key in ("img_size", "in_chans", "num_classes", *(("grid", "embed_dim") if compares_patches else ())):
        if getattr(teacher, key) != getattr(model, key):
            raise InputError(
                f"distill.teacher={name!r} has {key}={getattr(teacher, key)}, and the model {getattr(model, key)}: "
                "choose a teacher with the same"
            )

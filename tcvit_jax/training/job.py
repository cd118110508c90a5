"""Everything a run is made of, from its configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from tcvit_jax import checkpoint, convert, models, sharding
from tcvit_jax.config import Config, default
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.measure import Ledger, describe
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.training import experiment, optimizer
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher
from tcvit_jax.training.warmdown import Stage, stages

DENSE = "dense"


@dataclass(frozen=True)
class Job:
    """Everything a run is made of, built and checked before anything is written or compiled."""

    config: Config
    objective: Objective
    stages: tuple[Stage, ...]
    ledger: Ledger
    train_data: experiment.TrainData
    eval_data: experiment.EvalData
    mesh: Mesh
    total_steps: int
    rate: optax.Schedule
    tx: optax.GradientTransformation
    variables: dict[str, Any] | None
    taught: dict[str, Any]

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
    check_numbers(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
    # Traces the model: what only shows there is raised now.
    sharding.check_shared(models.parameter_shapes(model), mesh, model.PARAMETERS)
    variables = None
    if config.weights:
        state_dict = convert.read_state_dict(config.weights)
        variables = convert.from_torch(state_dict, model, new_head=config.new_head)
    teacher, taught, classes = teacher_of(config, model, preprocessing, variables)
    objective = objective_of(config, model, preprocessing, teacher)
    rows = config.accumulate * (2 if objective.pairs else 1)
    sharding.check_divisible("batch_size", config.batch_size, mesh, rows)
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    train_data = experiment.build_train_data(config, model, preprocessing)
    # What only the pipeline refuses is raised now; nothing is read before the first batch is asked for.
    train_data.batches(0)
    if classes is not None and classes != train_data.source.classes:
        raise InputError(f"distill.teacher={config.distill.teacher!r} knows other classes than the data have")
    eval_data = experiment.build_eval_data(config, model, preprocessing)
    total_steps = train_data.steps(config.epochs)
    if not total_steps:
        raise InputError(f"epochs={config.epochs} is less than half a step of {config.batch_size} images")
    steps_per_epoch = len(train_data.source) / config.batch_size
    rate = optimizer.learning_rate(config.optimizer, total_steps, steps_per_epoch, config.batch_size)
    tx = optimizer.adamw(config.optimizer, rate, model.PARAMETERS, model.depth)
    return Job(
        config, objective, stages(config.warmdown, model, total_steps, steps_per_epoch), describe(model), train_data,
        eval_data, mesh, total_steps, rate, tx, variables, taught,
    )  # fmt: skip


def check_numbers(config: Config) -> None:
    """Raise an `InputError` for what is out of its range or not read, in the words of its key."""
    for key in ("log_every", "eval_every", "checkpoint_every", "epochs", "accumulate"):
        if not config[key] > 0:
            raise InputError(f"{key}={config[key]} is not positive")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed} is not in [0, 2**32)")
    if config.data.repeats < 1:
        raise InputError(f"data.repeats={config.data.repeats} is not positive: 1 shows every image once an epoch")
    if config.data.workers < 0:
        raise InputError(f"data.workers={config.data.workers} is negative: 0 decodes in this process")
    if not 0 <= config.label_smoothing < 1:
        raise InputError(f"label_smoothing={config.label_smoothing} is not in [0, 1)")
    shares = {f"mixing.{key}": config.mixing[key] for key in ("prob", "switch_prob")}
    for key, value in {
        **shares,
        "random_erasing": config.random_erasing,
        "distill.weight": config.distill.weight,
    }.items():
        if not 0 <= value <= 1:
            raise InputError(f"{key}={value} is not in [0, 1]")
    alphas = {f"mixing.{key}": config.mixing[key] for key in ("mixup", "cutmix")}
    for key, value in {**alphas, "token_labels": config.token_labels, "distill.tokens": config.distill.tokens}.items():
        if not value >= 0:
            raise InputError(f"{key}={value} is negative: 0 is off")
    if not config.distill.temperature > 0:
        raise InputError(f"distill.temperature={config.distill.temperature} is not positive")
    if config.distill.kind not in ("soft", "hard"):
        raise unknown("distill.kind", config.distill.kind, ("soft", "hard"))
    if not config.distill.teacher:
        _check_unread(config, "distill", ("kind", "weight", "temperature", "tokens"), "distill.teacher")
    elif config.distill.kind == "hard":
        _check_unread(config, "distill", ("temperature",), "distill.kind=soft")
    if not (config.mixing.mixup or config.mixing.cutmix):
        _check_unread(config, "mixing", ("prob",), "mixing.mixup or mixing.cutmix")
    if not (config.mixing.mixup and config.mixing.cutmix):
        _check_unread(config, "mixing", ("switch_prob",), "both mixing.mixup and mixing.cutmix")


def _check_unread(config: Config, section: str, keys: tuple[str, ...], needed: str) -> None:
    """Raise for keys of a section that were set, and are not read without what they need."""
    plain = default()[section]
    for key in keys:
        if config[section][key] != plain[key]:
            raise InputError(f"{section}.{key}={config[section][key]!r} is not read without {needed}")


def objective_of(config: Config, model: ViT, preprocessing: Preprocessing, teacher: Teacher | None) -> Objective:
    """What a configuration minimises.

    Raises:
        InputError: settings that do not fit each other, or the model.
    """
    mixing = config.mixing.to_dict()
    mix_token = mixing.pop("mix_token")
    objective = Objective(
        model, preprocessing, config.label_smoothing, Mixing(**mixing), config.random_erasing, mix_token,
        config.token_labels, teacher,
    )  # fmt: skip
    if config.token_labels and not model.labels_patches:
        raise InputError(
            f"token_labels={config.token_labels} needs a head on every patch token, which {model.variant} lacks: use "
            "lvvit_s, for example"
        )
    if config.token_labels and (mixing["mixup"] or mixing["cutmix"]):
        raise InputError("token_labels know nothing of mixed pixels: use mixing.mix_token, with mixup=0 and cutmix=0")
    if config.data.label_maps and not config.token_labels:
        raise InputError("data.label_maps without token_labels are not read: use --config.token_labels=1.0")
    return objective


def teacher_of(
    config: Config, model: ViT, preprocessing: Preprocessing, variables: dict[str, Any] | None
) -> tuple[Teacher | None, dict[str, Any], tuple[str, ...] | None]:
    """Who is learned from, its variables (for `"dense"` those that the model starts from), and its classes if known.

    Raises:
        InputError: no such teacher, or one that does not fit the model.
    """
    settings = config.distill.to_dict()
    name = settings.pop("teacher")
    if not name:
        return None, {}, None
    if name == DENSE:
        if variables is None:
            raise InputError("distill.teacher='dense' needs the weights that it is of: use --config.weights=PATH")
        if config.new_head:
            raise InputError("distill.teacher='dense' has no classifier with new_head=True: name a trained checkpoint")
        return Teacher(models.condense(model), preprocessing, **settings), variables, None
    try:
        teacher, taught, meta = checkpoint.load(name)
    except InputError as error:
        raise InputError(f"distill.teacher={name!r}: {error}") from error
    _check_teacher(name, teacher, model, patches=settings["tokens"] > 0 or config.mixing.mix_token)
    classes = None if meta["classes"] is None else tuple(meta["classes"])
    return Teacher(teacher, Preprocessing.from_config(meta["preprocessing"]), **settings), taught, classes


def _check_teacher(name: str, teacher: ViT, model: ViT, patches: bool) -> None:
    """Raise unless a teacher sees the student's images and has its classes; where patches are compared, theirs too."""
    keys = ["img_size", "in_chans", "num_classes", *(["grid", "embed_dim"] if patches else [])]
    for key in keys:
        if getattr(teacher, key) != getattr(model, key):
            raise InputError(
                f"distill.teacher={name!r} has {key}={getattr(teacher, key)}, and the model {getattr(model, key)}: "
                "choose a teacher with the same"
            )

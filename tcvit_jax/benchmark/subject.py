"""What is compared: checkpoints, reducers, budgets, and how they are measured."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from tcvit_jax import __version__, checkpoint, convert, models, reducers, schedule, sharding
from tcvit_jax import config as configs
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.reducers import Reducer
from tcvit_jax.schedule import SHAPES
from tcvit_jax.training.experiment import EvalData, build_eval_data, build_model, build_preprocessing, check_classes

# Where settings that nobody gave start from.
SHARES = (0.75, 0.6, 0.5)


@dataclass(frozen=True)
class Weights:
    """Trained parameters of the one model that is compared.

    Attributes:
        name: where they came from.
        seed: that they were trained with; None for published weights.
        recipe: how they met the reducers: `"off the shelf"`, if they were trained with every token.
        variables: of the model.
        checksum: of the variables.
        classes: what they were trained to tell apart, in order; None where nothing says.
    """

    name: str
    seed: int | None
    recipe: str
    variables: dict[str, Any]
    checksum: str
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Entry:
    """One method at one budget: a row to be.

    Attributes:
        budget: what it was to cost, in 1e9 multiply-adds.
        reducer: None for the dense model.
        model: condensed.
    """

    budget: float
    reducer: Reducer | None
    model: ViT

    @property
    def name(self) -> str:
        """For tables and the names of units."""
        return "dense" if self.reducer is None else repr(self.reducer)


@dataclass(frozen=True)
class Subject:
    """What is compared, and how.

    Attributes:
        model: dense.
        weights: one or more, of that model.
        config: of the data.
        data: that accuracy is measured on.
        preprocessing: of the images.
        reducers: the first of them is what the others are compared with.
        budgets: in 1e9 multiply-adds.
        shape: of every schedule, one of `schedule.SHAPES`, or `"method"` for each method's own.
        batch: images of a timed batch.
        rounds: timed runs of every program.
        calibrate: on how many training images the reducers' parameters are chosen, at each budget; 0 takes those given.
    """

    model: ViT
    weights: tuple[Weights, ...]
    config: configs.Config
    data: EvalData
    preprocessing: Preprocessing
    reducers: tuple[Reducer, ...]
    budgets: tuple[float, ...]
    shape: str = "method"
    batch: int = 64
    rounds: int = 30
    calibrate: int = 0
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def entries(self, budget: float, methods: Sequence[Reducer] | None = None) -> tuple[Entry, ...]:
        """Dense, then every reducer (or other ones), at one budget.

        Raises:
            InputError: a method that cannot meet the budget.
        """
        plan = schedule.budget(budget, shape=self.shape)
        found = [Entry(budget, None, self.model)]
        for reducer in self.reducers if methods is None else methods:
            try:
                found.append(Entry(budget, reducer, models.condense(self.model, reducer, plan)))
            except InputError as error:
                raise InputError(f"{reducer!r}: {error}") from error
        return tuple(found)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that its numbers depend on, as plain values for JSON."""
        return {
            "model": models.to_config(self.model),
            "weights": [[weights.name, weights.checksum] for weights in self.weights],
            "data": {**self.config.to_dict()["data"], "eval_batch_size": self.config.eval_batch_size},
            "reducers": [reducers.to_config(reducer) for reducer in self.reducers],
            "budgets": list(self.budgets),
            "shape": self.shape,
            "batch": self.batch,
            "rounds": self.rounds,
            "calibrate": self.calibrate,
            "versions": self.versions,
        }


def versions() -> dict[str, str]:
    """What computed: packages, Python, the kind of device."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    device = jax.devices()[0]
    kind = f"{device.platform} {device.device_kind}"
    return {**packages, "tcvit_jax": __version__, "python": platform.python_version(), "device": kind}


def from_checkpoints(
    directories: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[ViT, tuple[Weights, ...], configs.Config, Preprocessing]:
    """The dense model of one or more checkpoints, with all of their weights, their data and preprocessing.

    Raises:
        InputError: checkpoints of different models or preprocessing; an override that a checkpoint decides, or that
            a benchmark does not read.
    """
    _check_overrides(overrides, configs.OF_DATA)
    found, first = [], None
    for directory in directories:
        model, variables, meta = checkpoint.load(directory)
        config = configs.override(configs.restored(meta.get("config", {})), overrides)
        preprocessing = build_preprocessing(config, model, Preprocessing.from_config(meta["preprocessing"]))
        checksum = checkpoint.checksum(variables)
        classes = None if meta["classes"] is None else tuple(meta["classes"])
        found.append(Weights(str(directory), meta.get("seed"), _recipe(model), variables, checksum, classes))
        dense = models.condense(model, None, 0)
        if first is None:
            first = dense, config, preprocessing
        elif (dense, preprocessing) != (first[0], first[2]):
            raise InputError(f"checkpoint {str(directory)!r} holds another model than {str(directories[0])!r}")
    if first is None:
        raise InputError("no checkpoint to compare reducers on")
    return first[0], tuple(found), first[1], first[2]


def from_config(
    path: str | Path, weights: str, overrides: Sequence[str] = ()
) -> tuple[ViT, tuple[Weights, ...], configs.Config, Preprocessing]:
    """The dense model of a configuration, with published weights: `weights`, or the configuration's own.

    Raises:
        InputError: no weights; an override that a benchmark does not read.
    """
    _check_overrides(overrides, (*configs.OF_DATA, "--config.model.", "--config.weights", "--config.new_head"))
    config = configs.load(path, overrides)
    source = weights or config.weights
    if not source:
        raise InputError(f"config file {str(path)!r} names no weights: add --weights FILE")
    model = models.condense(build_model(config), None, 0)
    variables = convert.from_torch(convert.read_state_dict(source), model, new_head=config.new_head)
    seed, recipe = None, _recipe(None)
    if Path(source).is_dir():
        trained, _, meta = checkpoint.load(source)
        seed, recipe = meta.get("seed"), _recipe(trained)
    found = Weights(str(source), seed, recipe, variables, checkpoint.checksum(variables))
    return model, (found,), config, build_preprocessing(config, model)


def _check_overrides(overrides: Sequence[str], read: Sequence[str]) -> None:
    """What a benchmark does not read would change nothing, without a word."""
    for argument in overrides:
        if argument.startswith("--config.") and not argument.startswith(tuple(read)):
            keys = ", ".join(key.removeprefix("--config.").rstrip(".=") for key in read)
            raise InputError(
                f"cannot use {argument!r} with a benchmark, which reads {keys}: methods are --reducers, budgets --gmacs"
            )


def _recipe(model: ViT | None) -> str:
    """How weights of this model met the reducers."""
    return "off the shelf" if model is None or model.reducer is None else f"trained with {model.reducer!r}"


def build(
    found: tuple[ViT, tuple[Weights, ...], configs.Config, Preprocessing],
    methods: Sequence[Reducer],
    *,
    gmacs: Sequence[float] = (),
    shares: Sequence[float] = SHARES,
    shape: str = "method",
    batch: int = 64,
    rounds: int = 30,
    calibrate: int = 0,
) -> Subject:
    """Put a subject together; every mistake in it is raised here, before anything is compiled.

    Args:
        found: from `from_checkpoints` or `from_config`.
        methods: the reducers, at least one.
        gmacs: budgets in 1e9 multiply-adds.
        shares: without those, budgets as parts of the dense model's cost.
        shape, batch, rounds, calibrate: as of `Subject`.
    """
    model, weights, config, preprocessing = found
    if not methods:
        raise InputError("no reducer to compare: use --reducers gtp,tcvit")
    if len(set(methods)) < len(methods):
        twice = next(method for method in methods if list(methods).count(method) > 1)
        raise InputError(f"reducer {twice!r} is named twice: once is enough")
    if not gmacs and not shares:
        raise InputError("no budget to compare at: use --share 0.75,0.5 or --gmacs 3.4")
    sharding.check_divisible("eval_batch_size", config.eval_batch_size, sharding.data_mesh())
    dense = model.cost().total / 1e9
    for share in () if gmacs else shares:
        if not 0 < share < 1:
            raise InputError(f"share={share} is not between 0 and 1: 0.5 is half of the dense model's multiply-adds")
    budgets = tuple(gmacs) if gmacs else tuple(share * dense for share in shares)
    for budget in budgets:
        if not 0 < budget < dense:
            raise InputError(f"gmacs={budget:g} is no budget below the dense model's {dense:.4g}")
    if shape not in (*SHAPES, "method"):
        raise unknown("shape", shape, (*SHAPES, "method"))
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name}={value} is not positive")
    if calibrate < 0:
        raise InputError(f"calibrate={calibrate} is negative: 0 takes parameters as they are given")
    if jax.process_count() > 1:
        raise InputError(f"a benchmark runs in one process, and this is one of {jax.process_count()}")
    data = build_eval_data(config, model, preprocessing)
    for trained in weights:
        check_classes(config, data, trained.classes, repr(trained.name))
    subject = Subject(
        model, weights, config, data, preprocessing, tuple(methods), budgets, shape, batch, rounds, calibrate
    )  # fmt: skip
    for budget in budgets:
        subject.entries(budget)
    return subject

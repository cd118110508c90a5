"""The settings of a benchmark: checkpoints, reducers, budgets and the measurement."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import jax

from tcvit_jax import __version__, checkpoint, models, reducers, schedule
from tcvit_jax.assembly import EvalData, Pretrained, SplitRecord, open_split
from tcvit_jax.benchmark import resolution
from tcvit_jax.config import Config, Data
from tcvit_jax.data import EvalTransform, Source
from tcvit_jax.errors import InputError, conflicts, invalid, out_of_range, requires, unknown
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.reducers import Random, Reducer, Uniform
from tcvit_jax.schedule import SCHEDULE_FAMILIES
from tcvit_jax.tasks.base import Subject, Task
from tcvit_jax.tasks.classify import Classify
from tcvit_jax.tasks.evaluate import check_single_process, open_data, resolve

# The default budgets, as fractions of the MACs of the dense model.
MACS_FRACTIONS = (0.75, 0.6, 0.5)
# Baselines that a method must exceed, beside the dense model at a lower resolution.
BASELINES: tuple[type[Reducer], ...] = (Random, Uniform)
# The name of the dense model in tables; at a lower resolution, its size follows.
DENSE = "dense"


@dataclass(frozen=True)
class Weights:
    """Trained weights of the model that is compared.

    Attributes:
        name: The source of the weights.
        seed: The seed of the training run; None for published weights.
        recipe: `"off the shelf"` for weights trained without a reducer, or else the reducer they were trained with.
        variables: The variables of the model.
        checksum: The checksum of the variables.
    """

    name: str
    seed: int | None
    recipe: str
    variables: dict[str, Any]
    checksum: str

    @classmethod
    def from_pretrained(cls, pretrained: Pretrained) -> Weights:
        """Return the weights of a pretrained model."""
        origin, reducer = pretrained.origin, pretrained.origin.trained_with
        recipe = "off the shelf" if reducer is None else f"trained with {reducer!r}"
        variables = pretrained.variables
        return cls(pretrained.name, origin.seed, recipe, variables, checkpoint.checksum(variables))


@dataclass(frozen=True)
class Entry:
    """One model at one budget, which becomes a row of the results.

    Attributes:
        budget: The budget in units of 1e9 multiply-adds.
        name: The name in tables and in the names of measurements.
        subject: The model, its variables and its images.
        family: The schedule family of the reducer; `"none"` for the dense model at any resolution.
    """

    budget: float
    name: str
    subject: Subject
    family: str = "none"

    @property
    def model(self) -> ViT:
        """The model."""
        return self.subject.model

    @property
    def reducer(self) -> Reducer | None:
        """The reducer; None for the dense model at any resolution."""
        return self.model.reducer

    @property
    def label(self) -> str:
        """The name of its measurements, which are those of all budgets for the dense model."""
        return self.name if self.name == DENSE else f"{self.name} at {self.budget!r}"


@dataclass(frozen=True)
class Comparison:
    """The settings of a benchmark.

    Attributes:
        model: The dense model.
        weights: One or more sets of weights of the model.
        config: The configuration of the data.
        data: The evaluation data.
        preprocessing: The preprocessing of the images.
        pretrained: The sources of the weights, which load them for images of another size.
        reducers: The reducers; the first one is the reference of paired differences.
        budgets: The budgets in units of 1e9 multiply-adds.
        schedule_family: One of `schedule.SCHEDULE_FAMILIES`, or `"method"` for that of each reducer.
        batch: The batch size of throughput measurements.
        rounds: The number of timed runs of each program.
        calibrate: The number of training images on which the parameters of the reducers are chosen at each budget; 0
            for no calibration.
        versions: Library versions and the device kind, as returned by `versions`.
        train_source: The training split, for calibration; None without it.
        task: What is measured.
        train_data: The training images of the task; None if it reads none.
        has_bounds: Whether to measure the dense model at a lower resolution and `BASELINES` at each budget.
        families: The schedule family of each reducer, where `schedule_family` is `"method"`: that of a preset, or
            `"method"` for the default of the reducer. Empty for the defaults of all.
    """

    model: ViT
    weights: tuple[Weights, ...]
    config: Config
    data: EvalData
    preprocessing: Preprocessing
    pretrained: tuple[Pretrained, ...]
    reducers: tuple[Reducer, ...]
    budgets: tuple[float, ...]
    schedule_family: str = "method"
    batch: int = 64
    rounds: int = 30
    calibrate: int = 0
    versions: dict[str, str] = field(default_factory=lambda: versions())
    train_source: Source | None = None
    task: Task[Any] = field(default_factory=Classify)
    train_data: EvalData | None = None
    has_bounds: bool = True
    families: tuple[str, ...] = ()

    @cached_property
    def methods(self) -> tuple[tuple[Reducer, str], ...]:
        """The reducers, each with its schedule family."""
        families = self.families if self.families and self.schedule_family == "method" else None
        return tuple(zip(self.reducers, families or len(self.reducers) * (self.schedule_family,), strict=True))

    @cached_property
    def dense(self) -> Subject:
        """The dense model at its full size."""
        variables = [weights.variables for weights in self.weights]
        return Subject(self.model, variables, self.preprocessing, self.data, self.train_data, self.model.grid)

    def entries(self, budget: float, methods: Sequence[Reducer] | None = None) -> tuple[Entry, ...]:
        """Return the entries of the dense model and all reducers at one budget.

        Args:
            budget: The budget in units of 1e9 multiply-adds.
            methods: Reducers that replace those of the comparison; None for no replacement.

        Raises:
            InputError: A reducer cannot meet the budget.
        """
        entries = [Entry(budget, DENSE, self.dense)]
        reducers = self.reducers if methods is None else methods
        for reducer, (_, family) in zip(reducers, self.methods, strict=True):
            try:
                entries.append(self._reduced(budget, reducer, family))
            except InputError as error:
                raise invalid(repr(reducer), str(error)) from error
        return tuple(entries)

    def bounds(self, budget: float) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
        """Return the entries of what a method must exceed, and notes on those that the model does not support.

        These are the dense model at a lower resolution, and those of `BASELINES` that are not among the reducers.

        Args:
            budget: The budget in units of 1e9 multiply-adds.
        """
        if not self.has_bounds:
            return (), ()
        entries: list[Entry] = []
        notes: list[str] = []
        kinds = {type(reducer) for reducer in self.reducers}
        baselines = [kind() for kind in BASELINES if kind not in kinds]
        for reducer in (None, *baselines):
            try:
                entry = None if reducer is None else self._reduced(budget, reducer, self.schedule_family)
                entries.append(entry or self._resized(budget))
            except InputError as error:
                name = "dense at a lower resolution" if reducer is None else repr(reducer)
                notes.append(f"no row for {name}: {error}")
        return tuple(entries), tuple(notes)

    def _reduced(self, budget: float, reducer: Reducer, family: str) -> Entry:
        model = models.condense(self.model, reducer, schedule.budget(budget, family))
        resolved = reducer.DEFAULT_SCHEDULE if family == "method" else family
        return Entry(budget, self._name(reducer, family), replace(self.dense, model=model), resolved)

    def _name(self, reducer: Reducer, family: str) -> str:
        """Return the name of a row, which has the schedule family if it is that of a preset."""
        return repr(reducer) if family == self.schedule_family else f"{reducer!r}, {family}"

    def _resized(self, budget: float) -> Entry:
        size = resolution.image_size(self.model, budget)
        loaded = [each.load_dense(size) for each in self.pretrained]
        preprocessing = resolution.scale_preprocessing(self.preprocessing, self.model.img_size, size)
        transform = EvalTransform(size, self.model.in_chans, *preprocessing.geometry)
        train_data = self.train_data and replace(self.train_data, transform=transform)
        subject = Subject(
            loaded[0][0], [variables for _, variables in loaded], preprocessing,
            replace(self.data, transform=transform), train_data, self.model.grid,
        )  # fmt: skip
        return Entry(budget, f"{DENSE} at {size[0]}x{size[1]} px", subject)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the results depend on, as plain values for JSON."""
        data = self.config.data
        splits = [SplitRecord.from_source(data, data.eval_split, self.data.source)]
        train_source = self.train_source if self.train_data is None else self.train_data.source
        if train_source is not None:
            splits.append(SplitRecord.from_source(data, data.train_split, train_source))
        return {
            "model": models.to_config(self.model),
            "weights": [[weights.name, weights.checksum] for weights in self.weights],
            "data": {**self.config.to_mapping()["data"], "eval_batch_size": self.config.run.eval_batch_size},
            # The directory may change.
            "splits": [{**asdict(split), "dir": ""} for split in splits],
            "reducers": [reducers.to_config(reducer) for reducer in self.reducers],
            "budgets": list(self.budgets),
            "schedule_family": self.schedule_family,
            "batch": self.batch,
            "rounds": self.rounds,
            "calibrate": self.calibrate,
            "task": self.task.settings,
            "bounds": self.has_bounds,
            "families": [family for _, family in self.methods],
            "versions": self.versions,
        }


def versions() -> dict[str, str]:
    """Return library versions and the device kind."""
    packages = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    device = jax.devices()[0]
    kind = f"{device.platform} {device.device_kind}"
    return {**packages, "tcvit_jax": __version__, "python": platform.python_version(), "device": kind}


def build(
    pretrained: Sequence[Pretrained],
    methods: Sequence[Reducer],
    *,
    gmacs: Sequence[float] = (),
    macs_fractions: Sequence[float] = MACS_FRACTIONS,
    schedule_family: str = "method",
    batch: int = 64,
    rounds: int = 30,
    calibrate: int = 0,
    task: Task[Any] | None = None,
    has_bounds: bool = True,
    families: Sequence[str] = (),
) -> Comparison:
    """Build a comparison and validate it before anything is compiled.

    Args:
        pretrained: One or more pretrained models with the same architecture; the data are those of the first.
        methods: One or more reducers.
        gmacs: Budgets in units of 1e9 multiply-adds.
        macs_fractions: Budgets as fractions of the multiply-adds of the dense model, if `gmacs` is empty.
        schedule_family: As in `Comparison`.
        batch: As in `Comparison`.
        rounds: As in `Comparison`.
        calibrate: As in `Comparison`.
        task: As in `Comparison`; None for classification.
        has_bounds: As in `Comparison`.
        families: As in `Comparison`.

    Raises:
        InputError: The pretrained models differ in architecture or preprocessing, a reducer cannot meet a budget, or a
            number is out of range.
    """
    if not pretrained:
        raise requires("a benchmark", "weights", "pass --checkpoint DIR or --config FILE")
    first = pretrained[0]
    model, config, preprocessing = models.condense(first.model), first.config, first.preprocessing
    for each in pretrained[1:]:
        if (models.condense(each.model), each.preprocessing) != (model, preprocessing):
            problem = f"expected the same model and preprocessing as {first.name!r}"
            raise invalid(f"checkpoint {each.name!r}", problem, "pass checkpoints of one model")
    if not methods:
        raise requires("a benchmark", "reducers", "set --reducers gtp,tcvit")
    pairs = list(
        zip(methods, families if families and schedule_family == "method" else len(methods) * [""], strict=True)
    )
    if len(set(pairs)) < len(pairs):
        duplicate, _ = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise invalid("--reducers", f"{duplicate!r} is listed twice", "list each reducer once")
    if not gmacs and not macs_fractions:
        raise requires("a benchmark", "budgets", "set --macs-fraction 0.75,0.5 or --gmacs 3.4")
    dense = model.cost().total / 1e9
    for fraction in () if gmacs else macs_fractions:
        if not 0 < fraction < 1:
            hint = "0.5 is half of the MACs of the dense model"
            raise out_of_range("--macs-fraction", fraction, "> 0 and < 1", hint)
    budgets = tuple(gmacs) if gmacs else tuple(fraction * dense for fraction in macs_fractions)
    for budget in budgets:
        if not 0 < budget < dense:
            raise out_of_range("--gmacs", budget, f"> 0 and < {dense:.4g}", "the dense model sets the upper limit")
    if schedule_family not in (*SCHEDULE_FAMILIES, "method"):
        raise unknown("schedule_family", schedule_family, (*SCHEDULE_FAMILIES, "method"))
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise out_of_range(f"--{name}", value, ">= 1")
    if calibrate < 0:
        raise out_of_range("--calibrate", calibrate, ">= 0", "0 disables calibration")
    check_single_process("benchmark")
    task = resolve(task or Classify(), first)
    task.check(model)
    if calibrate and not task.NEEDS_CLASSIFIER:
        raise conflicts("--calibrate", f"--task {task.NAME}", "calibration maximizes the accuracy of the classifier")
    # All weights are evaluated on the data of the first.
    data, train_data = (each and each.with_cache() for each in open_data(pretrained, task))
    assert data is not None
    train_source = _open_training_split(pretrained, config.data, model) if calibrate else None
    comparison = Comparison(
        model, tuple(map(Weights.from_pretrained, pretrained)), config, data, preprocessing, tuple(pretrained),
        tuple(methods), budgets, schedule_family, batch, rounds, calibrate, train_source=train_source, task=task,
        train_data=train_data, has_bounds=has_bounds, families=tuple(families),
    )  # fmt: skip
    for budget in budgets:
        comparison.entries(budget)
    return comparison


def _open_training_split(pretrained: Sequence[Pretrained], data: Data, model: ViT) -> Source:
    """Open the images of the calibration, and compare them with the records of all weights.

    The training split must have another name than the evaluation split; overlapping slices of one split are not
    detected.
    """
    if data.train_split == data.eval_split:
        hint = "calibration requires images that are not evaluated"
        raise out_of_range("data.train_split", data.train_split, "different from data.eval_split", hint)
    source = open_split(data, data.train_split, model)
    for each in pretrained:
        if each.origin.record is not None:
            each.origin.record.check(data, data.train_split, source)
    return source

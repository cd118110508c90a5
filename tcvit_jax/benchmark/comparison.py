"""What is compared: checkpoints, reducers, budgets, and how they are measured."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from tcvit_jax import __version__, checkpoint, models, reducers, schedule
from tcvit_jax.assembly import EvalData, Pretrained
from tcvit_jax.config import Config
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.reducers import Reducer
from tcvit_jax.schedule import SCHEDULE_FAMILIES

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
    """

    name: str
    seed: int | None
    recipe: str
    variables: dict[str, Any]
    checksum: str

    @classmethod
    def of(cls, pretrained: Pretrained) -> Weights:
        """Return what a benchmark keeps of pretrained weights."""
        reducer = pretrained.trained_with
        recipe = "off the shelf" if reducer is None else f"trained with {reducer!r}"
        variables = pretrained.variables
        return cls(pretrained.name, pretrained.seed, recipe, variables, checkpoint.checksum(variables))


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
class Comparison:
    """What is compared, and how.

    Attributes:
        model: dense.
        weights: one or more, of that model.
        config: of the data.
        data: that accuracy is measured on.
        preprocessing: of the images.
        reducers: the first of them is what the others are compared with.
        budgets: in 1e9 multiply-adds.
        schedule_family: of every schedule, one of `schedule.SCHEDULE_FAMILIES`, or `"method"` for each method's own.
        batch: images of a timed batch.
        rounds: timed runs of every program.
        calibrate: on how many training images the reducers' parameters are chosen, at each budget; 0 takes those given.
    """

    model: ViT
    weights: tuple[Weights, ...]
    config: Config
    data: EvalData
    preprocessing: Preprocessing
    reducers: tuple[Reducer, ...]
    budgets: tuple[float, ...]
    schedule_family: str = "method"
    batch: int = 64
    rounds: int = 30
    calibrate: int = 0
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def entries(self, budget: float, methods: Sequence[Reducer] | None = None) -> tuple[Entry, ...]:
        """Dense, then every reducer (or other ones), at one budget.

        Raises:
            InputError: a method that cannot meet the budget.
        """
        plan = schedule.budget(budget, family=self.schedule_family)
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
            "data": {**self.config.to_mapping()["data"], "eval_batch_size": self.config.run.eval_batch_size},
            "reducers": [reducers.to_config(reducer) for reducer in self.reducers],
            "budgets": list(self.budgets),
            "schedule_family": self.schedule_family,
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


def build(
    pretrained: Sequence[Pretrained],
    methods: Sequence[Reducer],
    *,
    gmacs: Sequence[float] = (),
    shares: Sequence[float] = SHARES,
    schedule_family: str = "method",
    batch: int = 64,
    rounds: int = 30,
    calibrate: int = 0,
) -> Comparison:
    """Put a comparison together; every mistake in it is raised here, before anything is compiled.

    Args:
        pretrained: one or more weights of one model; the data are those of the first.
        methods: the reducers, at least one.
        gmacs: budgets in 1e9 multiply-adds.
        shares: without those, budgets as parts of the dense model's cost.
        schedule_family, batch, rounds, calibrate: as of `Comparison`.

    Raises:
        InputError: weights of different models or preprocessing, a method that cannot meet a budget, or a number out of
            its range.
    """
    if not pretrained:
        raise InputError("no checkpoint to compare reducers on")
    first = pretrained[0]
    model, config, preprocessing = models.condense(first.model), first.config, first.preprocessing
    for each in pretrained[1:]:
        if (models.condense(each.model), each.preprocessing) != (model, preprocessing):
            raise InputError(f"checkpoint {each.name!r} holds another model than {first.name!r}")
    if not methods:
        raise InputError("no reducer to compare: use --reducers gtp,tcvit")
    if len(set(methods)) < len(methods):
        twice = next(method for method in methods if list(methods).count(method) > 1)
        raise InputError(f"reducer {twice!r} is named twice: once is enough")
    if not gmacs and not shares:
        raise InputError("no budget to compare at: use --share 0.75,0.5 or --gmacs 3.4")
    dense = model.cost().total / 1e9
    for share in () if gmacs else shares:
        if not 0 < share < 1:
            raise InputError(f"share={share} is not between 0 and 1: 0.5 is half of the dense model's multiply-adds")
    budgets = tuple(gmacs) if gmacs else tuple(share * dense for share in shares)
    for budget in budgets:
        if not 0 < budget < dense:
            raise InputError(f"gmacs={budget:g} is no budget below the dense model's {dense:.4g}")
    if schedule_family not in (*SCHEDULE_FAMILIES, "method"):
        raise unknown("schedule_family", schedule_family, (*SCHEDULE_FAMILIES, "method"))
    for name, value in (("batch", batch), ("rounds", rounds)):
        if value < 1:
            raise InputError(f"{name}={value} is not positive")
    if calibrate < 0:
        raise InputError(f"calibrate={calibrate} is negative: 0 takes parameters as they are given")
    if jax.process_count() > 1:
        raise InputError(f"a benchmark runs in one process, and this is one of {jax.process_count()}")
    # All weights are evaluated on the data of the first, which have to be of the classes that each was trained on.
    data, *_ = [replace(each, config=config).eval_data() for each in pretrained]
    comparison = Comparison(
        model, tuple(map(Weights.of, pretrained)), config, data, preprocessing, tuple(methods), budgets, schedule_family, batch,
        rounds, calibrate,
    )  # fmt: skip
    for budget in budgets:
        comparison.entries(budget)
    return comparison

"""Training recipes and result types of the rows: four architectures and four methods on ImageNet-1k.

A row is a file with one `Row` and a `get_config(recipe)` that calls `configure`. The recipes:

    scratch      300 epochs, as in `deit_imagenet.py` or `lvvit_imagenet.py`
    finetune     30 epochs from published weights, with a small learning rate
    selfdistill  as finetune, with the dense model of the same weights as the teacher

This file is not a configuration file itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tcvit_jax import config as base
from tcvit_jax import reducers
from tcvit_jax.errors import unknown
from tcvit_jax.reducers import Reducer

# EViT trains from scratch with all tokens for 10 epochs and reaches the full reduction during the next 100 epochs.
EVIT_REDUCTION_WARMUP = {"start_epoch": 10.0, "epochs": 100.0, "stages": 8}


@dataclass(frozen=True)
class Result:
    """A top-1 accuracy on the validation split.

    Attributes:
        method: The method, as its paper spells it.
        top1: The top-1 accuracy, in percent.
        gmacs: Multiply-adds per image in 1e9, as rounded by the source; None if it does not state them.
        source: The source of the result; None if it is not recorded.
        note: Differences to consider in comparisons.
    """

    method: str
    top1: float
    gmacs: float | None = None
    source: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Architecture:
    """A dense model and its published weights.

    Attributes:
        model: The name in `tcvit_jax.list_models()`.
        scratch: The configuration file of the scratch recipe.
        weights: The file name of the published weights.
        gmacs: Multiply-adds per image, in 1e9.
        top1: The published top-1 accuracy, in percent.
    """

    model: str
    scratch: str
    weights: str
    gmacs: float
    top1: float


DEIT_TI = Architecture(
    "deit_tiny_patch16_224", "deit_imagenet.py", "deit_tiny_patch16_224.safetensors", gmacs=1.254, top1=72.2
)
DEIT_S = Architecture(
    "deit_small_patch16_224", "deit_imagenet.py", "deit_small_patch16_224.safetensors", gmacs=4.599, top1=79.8
)
DEIT_B = Architecture(
    "deit_base_patch16_224", "deit_imagenet.py", "deit_base_patch16_224.safetensors", gmacs=17.564, top1=81.8
)
LVVIT_S = Architecture("lvvit_s", "lvvit_imagenet.py", "lvvit_s-26M-224-83.3.pth.tar", gmacs=6.551, top1=83.3)


@dataclass(frozen=True)
class Row:
    """One method on one architecture: the reduction, its cost and published results.

    The keys of `published` and `related` are `"off_the_shelf"` (published weights, no training) and the recipes. A
    missing key means that there are no results.

    Attributes:
        dense: The architecture.
        method: The method, as its paper spells it.
        reducer: The reducer.
        schedule: Patch tokens removed per block: one number for all blocks, or one per block.
        gmacs: Multiply-adds per image in 1e9, including those of the reducer.
        published: Results of this method at this reduction.
        related: Results of other methods, or of this method at other rates, for comparison.
        reduction_warmup: The values of `reduction_warmup` in the scratch recipe, if the method's authors use one.
    """

    dense: Architecture
    method: str
    reducer: Reducer
    schedule: int | Sequence[int]
    gmacs: float
    published: Mapping[str, Sequence[Result]] = field(default_factory=dict)
    related: Mapping[str, Sequence[Result]] = field(default_factory=dict)
    reduction_warmup: Mapping[str, Any] = field(default_factory=dict)


def configure(row: Row, recipe: str) -> ConfigDict:
    """Return the configuration of a row and a recipe.

    Args:
        row: The row.
        recipe: `"scratch"`, `"finetune"` or `"selfdistill"`.

    Returns:
        The configuration.

    Raises:
        InputError: The recipe is unknown.
    """
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    config = base.read(Path(__file__).with_name(row.dense.scratch))
    config.update(model={"name": row.dense.model})
    config.reducer = reducers.to_config(row.reducer)
    config.schedule = row.schedule
    RECIPES[recipe](config, row)
    return config


def scratch(config: ConfigDict, row: Row) -> None:
    """Train from random parameters, with the reduction warm-up of the row."""
    config.update(reduction_warmup=row.reduction_warmup)


def finetune(config: ConfigDict, row: Row) -> None:
    """Finetune published weights for 30 epochs, after EViT (Liang et al., 2022).

    The batch size is 2,048, the learning rate decays from 2e-5 to 2e-6 without warm-up, and there is no stochastic
    depth. EViT's script scales its learning rate, 2e-5, by the batch size / 512; here it is not scaled. Pixels are
    mixed as in the scratch recipe. MixToken and token labels are disabled, as in other finetuning recipes of LV-ViT.
    """
    config.update(
        weights=row.dense.weights, batch_size=2048, epochs=30.0, eval_every=1.0, checkpoint_every=625, token_labels=0.0
    )
    config.update(model={"drop_path_rate": 0.0}, mixing={"mix_token": False})
    # Reset the optimizer of the scratch recipe.
    config.optimizer = base.default().optimizer
    config.update(
        optimizer={"lr": 2e-5, "min_lr": 2e-6, "warmup_epochs": 0.0, "weight_decay": 1e-6, "ema_decay": 0.9998}
    )


def selfdistill(config: ConfigDict, row: Row) -> None:
    """Finetune with the dense model of the same weights as the teacher."""
    finetune(config, row)
    add_teacher(config)


def add_teacher(config: ConfigDict) -> None:
    """Add the dense model as the teacher, with a weight of 0.5 for soft distillation and for restored patch tokens."""
    config.update(distill={"teacher": "dense", "kind": "soft", "weight": 0.5, "temperature": 1.0, "tokens": 0.5})


RECIPES: Mapping[str, Callable[[ConfigDict, Row], None]] = {
    "scratch": scratch,
    "finetune": finetune,
    "selfdistill": selfdistill,
}

"""Weights, and what their source says about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

from tcvit_jax.convert.formats import Source, format_of
from tcvit_jax.convert.mapping import Conversion, convert
from tcvit_jax.convert.names import strip_prefixes
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing


@dataclass(frozen=True)
class WeightSource:
    """Weights, and what their source says about them.

    Attributes:
        label: The repository, or the name of the file or directory, for reports.
        weights: The tensors.
        model: The model of the source, with the requested overrides; None for a weight file of an unspecified model.
        num_classes: Number of classes of the source; None if only the tensors say it.
        preprocessing: Preprocessing of its images at the size of `model`, or None if the source has none.
        classes: Names of the classes, or None if the source has none or the number of classes is another.
        has_config: Whether `config.json` of a directory describes the model.
        meta: Metadata of a checkpoint, or of a file that was exported from one, or None.
        model_type: Type of the model in the configuration of transformers, or "".
        resampling: Method and antialiasing for position embeddings; None for that of timm.
        grid: Patch grid of the position embeddings; None for that of the file, or else a square.
        ignored: Regular expressions of canonical names of tensors that the model does not use.
        notes: What differs from the original model or its preprocessing, one sentence each.
    """

    label: str
    weights: WeightFile
    model: ViT | None = None
    num_classes: int | None = None
    preprocessing: Preprocessing | None = None
    classes: list[str] | None = None
    has_config: bool = False
    meta: dict[str, Any] | None = None
    model_type: str = ""
    resampling: tuple[str, bool] | None = None
    grid: tuple[int, int] | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def convert(
        self,
        model: ViT,
        *,
        new_head: bool = False,
        grid: tuple[int, int] | None = None,
        keep_dtype: bool = False,
        adapt_patch_embed: bool = False,
    ) -> Conversion:
        """Convert the weights to the variables of a model, usually `self.model`, as `mapping.convert` does."""
        return convert(
            self.weights, model, new_head=new_head, grid=grid or self.grid, resampling=self.resampling,
            keep_dtype=keep_dtype, adapt_patch_embed=adapt_patch_embed, ignored=self.ignored,
        )  # fmt: skip

    def fit_channels(self) -> WeightSource:
        """Return a source whose preprocessing has a mean and a standard deviation for each channel of the model."""
        model, preprocessing = self.model, self.preprocessing
        if model is None or preprocessing is None or len(preprocessing.mean) == model.in_chans:
            return self
        values = {"mean": preprocessing.mean, "std": preprocessing.std}
        if model.in_chans == 1:
            values = {name: (sum(each) / len(each),) for name, each in values.items()}
            note = "mean and std of the preprocessing are averages over the channels of the source"
        else:
            values = {name: tuple(islice(cycle(each), model.in_chans)) for name, each in values.items()}
            note = "mean and std of the preprocessing repeat those of the source"
        return replace(self, preprocessing=replace(preprocessing, **values), notes=(*self.notes, note))


def count_classes(weights: WeightFile, model: ViT) -> int | None:
    """Return the number of classes of the classifier in a weight file, or None if it has no classifier.

    Args:
        weights: The tensors.
        model: The model of the file, with any number of classes.
    """
    file_format = format_of(weights)
    classifiers = model.PARAMETERS.classifier_tensors(file_format.name)
    for name in weights:
        for stripped in strip_prefixes(name):
            canonical_name, change = file_format.canonical_name(stripped)
            shape = weights.shape(name)
            if canonical_name in classifiers and shape:
                # Kernels of Flax are transposed.
                return Source((name,), change=change).shape([shape])[-1 if "/" in canonical_name else 0]
    return None

"""What a conversion did, as a table and as metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from tcvit_jax import models
from tcvit_jax.convert.mapping import Conversion
from tcvit_jax.convert.problems import summarize_names
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.convert.weight_source import WeightSource
from tcvit_jax.errors import printable
from tcvit_jax.models import ViT, zoo

# What a converted checkpoint and an exported file keep of the metadata of their checkpoint.
EXPORTED_KEYS = ("model", "preprocessing", "classes", "data", "seed", "trained_with")
# What an exported file keeps of the provenance.
ORIGIN_KEYS = ("model_type", "resampling", "has_class_names")
# Tensors of a text encoder, which are counted in the report.
_TEXT = re.compile(r"(.*\.)?(text_model\..*|text_projection\..*|logit_scale|logit_bias)")


@dataclass(frozen=True)
class Report:
    """Report of a conversion. `str` formats it as a table.

    Attributes:
        source: File or repository that was read.
        sha256: SHA-256 of the file; of several files, of their contents one after another.
        selection: Tensors that were left out by `prefix` and by each pattern of `ignore`, one sentence each.
        model: Name of the model, with its tag.
        model_type: Type of the model in the configuration of transformers, or "".
        conversion: Converted variables, and how each tensor was used.
        parameters: Number of parameters of the model.
        published_parameters: Number of parameters of the published model of this name, or None if there is none.
        checksum: SHA-256 of the variables.
        parity: Result of the comparison with timm, or why there was none.
        out: Path of the checkpoint.
        resampling: Method and antialiasing for position embeddings, as in `WeightSource`.
        notes: What differs from the original model or its preprocessing, one sentence each.
        has_class_names: Whether the names of the classes are those of a configuration of transformers or timm.
    """

    source: str
    sha256: str
    selection: dict[str, str]
    model: str
    model_type: str
    conversion: Conversion
    parameters: int
    published_parameters: int | None
    checksum: str = ""
    parity: str = "not compared"
    out: str = ""
    resampling: tuple[str, bool] | None = None
    notes: tuple[str, ...] = ()
    has_class_names: bool = False

    def __str__(self) -> str:
        conversion = self.conversion
        kinds = {"resampled": conversion.resampled, "replaced": conversion.replaced, "ignored": conversion.ignored}
        counts = [f"{len(conversion.mapped)} mapped", *(f"{len(names)} {kind}" for kind, names in kinds.items())]
        published = f" (published model: {self.published_parameters:,})" if self.published_parameters else ""
        # No tensor is rejected, because a rejected tensor is an error without a report.
        rows = [
            ("source", f"{self.source}, sha256 {self.sha256}"),
            *(("selection", f"{option}: {effect}") for option, effect in self.selection.items()),
            ("model", self.model + (f", {self.model_type} of transformers" if self.model_type else "")),
            ("tensors", f"{', '.join(counts)}, 0 rejected, {conversion.dtype}"),
            *((kind, _summarize(names)) for kind, names in kinds.items() if names),
            *((dtype, summarize_names(names)) for dtype, names in self._other_dtypes()),
            *(("note", note) for note in (*self.notes, *conversion.notes)),
            *(("warning", warning) for warning in conversion.warnings),
            ("parameters", f"{self.parameters:,}" + published),
            ("parity", self.parity),
            ("checkpoint", f"{self.out}, variables sha256 {self.checksum}"),
        ]
        return "\n".join(f"{label:11} {printable(text)}" for label, text in rows)

    def _other_dtypes(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the dtypes of the file and their tensors, without the most frequent one."""
        return sorted(self.conversion.dtypes.items(), key=lambda item: len(item[1]))[:-1]

    def provenance(self) -> dict[str, Any]:
        """Return the origin of the weights as plain values, for the metadata of the checkpoint."""
        conversion = self.conversion
        names = {kind: list(getattr(conversion, kind)) for kind in ("resampled", "replaced", "ignored")}
        return {
            "source": self.source, "sha256": self.sha256, "selection": self.selection, "mapped": len(conversion.mapped),
            **names, "dtype": conversion.dtype, "notes": [*self.notes, *conversion.notes],
            "warnings": list(conversion.warnings),
            "parameters": self.parameters, "parity": self.parity, "model_type": self.model_type,
            "has_class_names": self.has_class_names, "resampling": list(self.resampling) if self.resampling else None,
            "versions": {"jax": jax.__version__},
        }  # fmt: skip


def make_report(source: WeightSource, model: ViT, conversion: Conversion) -> Report:
    """Return the report of a conversion, which reads the files once more for their SHA-256.

    Args:
        source: The weights and their source.
        model: The model.
        conversion: The converted variables.
    """
    weights = source.weights
    return Report(
        source=source.label + (f" ({weights.entry})" if weights.entry else ""),
        sha256=sha256(weights.files),
        selection=_selection(weights),
        model=model.variant,
        model_type=source.model_type,
        conversion=conversion,
        parameters=models.count_parameters(model),
        published_parameters=zoo.get_entry(model.variant).parameters or None,
        resampling=source.resampling,
        notes=source.notes,
        has_class_names=source.classes is not None and (source.has_config or _has_class_names(source.meta)),
    )


def _has_class_names(meta: Mapping[str, Any] | None) -> bool:
    return bool((meta or {}).get("provenance", {}).get("has_class_names"))


def make_meta(source: WeightSource, model: ViT, report: Report, *, new_head: bool) -> dict[str, Any]:
    """Return the metadata of a converted checkpoint.

    Args:
        source: The weights and their source.
        model: The model.
        report: The report of the conversion.
        new_head: Whether the classifier is new, so that it may have other classes.

    Returns:
        `model`, `classes`, `provenance`, `preprocessing` if the source has any, and what the source records of its
        training.
    """
    meta: dict[str, Any] = {"classes": None if new_head else source.classes}
    if source.preprocessing is not None:
        meta["preprocessing"] = asdict(source.preprocessing)
    if source.meta is not None and not new_head:
        origin = (
            {"trained_with": source.meta["model"]["reducer"], **source.meta} if "model" in source.meta else source.meta
        )
        meta |= {key: origin[key] for key in ("data", "seed", "trained_with") if key in origin}
    return {**meta, "model": models.to_config(model), "provenance": report.provenance()}


def sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _selection(weights: WeightFile) -> dict[str, str]:
    """Return how many tensors `prefix` and each pattern of `ignore` left out."""
    selection = (
        {f"prefix {weights.prefix!r}": f"other tensors not read: {len(weights.outside)}"} if weights.prefix else {}
    )
    patterns = {f"ignore {pattern!r}": f"tensors not read: {len(names)}" for pattern, names in weights.ignored.items()}
    return selection | patterns


def _summarize(names: Sequence[str]) -> str:
    """Return names in one line, those of a text encoder as their number."""
    others = [name for name in names if not _TEXT.fullmatch(name)]
    count = len(names) - len(others)
    texts = [f"tensors of the text encoder: {count}"] if count else []
    return ", ".join([*texts, *([summarize_names(others)] if others else [])])

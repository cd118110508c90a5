"""Conversion of a weight file to a checkpoint and back, with a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tcvit_jax import checkpoint, models
from tcvit_jax.convert import hub, parity
from tcvit_jax.convert.files import META, WeightFile, write_safetensors
from tcvit_jax.convert.mapping import Conversion, convert, to_torch
from tcvit_jax.convert.problems import summarize_names
from tcvit_jax.convert.sources import read_meta, read_state_dict
from tcvit_jax.errors import cannot_read, invalid, printable
from tcvit_jax.models import ViT, zoo

# Largest accepted difference from timm for logits of magnitude 1, in float32. 2e-6 is typical.
TOLERANCE = 1e-4
# What an exported file keeps of the metadata of its checkpoint.
EXPORTED_KEYS = ("model", "preprocessing", "classes", "data", "seed", "trained_with")


def _ignore(step: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Report:
    """Report of a conversion. `str` formats it as a table.

    Attributes:
        source: File or repository that was read.
        sha256: SHA-256 of the file.
        selection: Tensors that were left out by `prefix` and by each pattern of `ignore`, one sentence each.
        model: Name of the model, with its tag.
        conversion: Converted variables, and how each tensor was used.
        parameters: Number of parameters of the model.
        published_parameters: Number of parameters at the original resolution and number of classes.
        checksum: SHA-256 of the variables.
        parity: Result of the comparison with timm, or why there was none.
        out: Path of the checkpoint.
    """

    source: str
    sha256: str
    selection: dict[str, str]
    model: str
    conversion: Conversion
    parameters: int
    published_parameters: int
    checksum: str
    parity: str
    out: str

    def __str__(self) -> str:
        conversion = self.conversion
        kinds = {"resampled": conversion.resampled, "replaced": conversion.replaced, "ignored": conversion.ignored}
        counts = [f"{len(conversion.mapped)} mapped", *(f"{len(names)} {kind}" for kind, names in kinds.items())]
        # No tensor is rejected, because a rejected tensor is an error without a report.
        rows = [
            ("source", f"{self.source}, sha256 {self.sha256}"),
            *(("selection", f"{option}: {effect}") for option, effect in self.selection.items()),
            ("model", self.model),
            ("tensors", f"{', '.join(counts)}, 0 rejected, {conversion.dtype}"),
            *((kind, summarize_names(names)) for kind, names in kinds.items() if names),
            *((dtype, summarize_names(names)) for dtype, names in self._other_dtypes()),
            *(("note", note) for note in conversion.notes),
            *(("warning", warning) for warning in conversion.warnings),
            ("parameters", f"{self.parameters:,} (published model: {self.published_parameters:,})"),
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
            **names, "dtype": conversion.dtype, "notes": list(conversion.notes), "warnings": list(conversion.warnings),
            "parameters": self.parameters, "parity": self.parity,
            "versions": {"jax": jax.__version__},
        }  # fmt: skip


def to_checkpoint(
    source: str | Path,
    out: str | Path,
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    new_head: bool = False,
    grid: tuple[int, int] | None = None,
    entry: str | None = None,
    prefix: str = "",
    ignore: Sequence[str] = (),
    compare: bool = True,
    photo: str | Path | None = None,
    progress: Callable[[str], object] = _ignore,
) -> Report:
    """Convert published weights to a self-contained checkpoint directory for `load` and `eval.py`.

    Args:
        source: Weight file or Hugging Face repository, as in `read_state_dict`.
        out: New directory.
        name: Model name; by default inferred from the repository.
        overrides: Overrides of `create_model`, such as `img_size` and `num_classes`.
        new_head: Whether to discard the classifiers, as in `from_torch`.
        grid: Patch grid of the position embeddings, as in `from_torch`.
        entry: Key of the tensors in a training checkpoint, as in `read_state_dict`.
        prefix: Prefix of the names of the tensors to read, as in `read_state_dict`.
        ignore: Patterns of names of tensors to leave out, as in `read_state_dict`.
        compare: Whether to compare the logits with timm's on `photo`, if torch and timm are installed.
        photo: Image file; by default a sample photo of scikit-learn.
        progress: Called with the name of each step when it starts.

    Returns:
        Report of the conversion.

    Raises:
        InputError: The weights do not match the model, or the logits differ from timm's. Nothing is written.
    """
    checkpoint.check_empty(Path(out).absolute())
    image = parity.read_photo(photo) if photo is not None else None
    source = str(source)
    repo = hub.repository(source)
    if name is None:
        if repo is None:
            raise cannot_read(source, "cannot infer the model", "pass --model NAME, one of tc.list_models()")
        name = zoo.name_from_repository(repo)
    progress(f"reading {source}")
    model = models.create_model(zoo.full_name(name), **(overrides or {}))
    weights = read_state_dict(source, entry, prefix=prefix, ignore=ignore)
    if weights.kind == "checkpoint":
        raise cannot_read(source, "already a checkpoint", "pass --out FILE.safetensors to export its weights for timm")
    conversion = convert(weights, model, new_head=new_head, grid=grid)
    progress(f"compiling {model.variant} to compare it with timm" if compare else f"computing the SHA-256 of {source}")
    report = Report(
        source=(repo or weights.path.name) + (f" ({weights.entry})" if weights.entry else ""),
        sha256=_sha256(weights.path),
        selection=_selection(weights),
        model=model.variant,
        conversion=conversion,
        parameters=models.count_parameters(model),
        published_parameters=zoo.get_entry(name).parameters,
        checksum="",
        parity=_compare(weights, model, conversion, image) if compare else "not compared",
        out=str(out),
    )
    # A file that was exported from a checkpoint has its metadata; a new classifier may have other classes.
    origin = read_meta(source) or {}
    copied_keys = ("preprocessing",) if new_head else EXPORTED_KEYS
    if "model" in origin:
        origin.setdefault("trained_with", origin["model"]["reducer"])
    meta = {
        "preprocessing": asdict(zoo.preprocessing(name)),
        "classes": None,
        **{key: origin[key] for key in copied_keys if key in origin},
        "model": models.to_config(model),
        "provenance": report.provenance(),
    }
    # Release a memory-mapped file before the checkpoint is written.
    del weights
    progress(f"writing {out}")
    return replace(report, checksum=checkpoint.save(out, conversion.variables, meta))


def to_safetensors(
    directory: str | Path, out: str | Path, weights: str | None = None, progress: Callable[[str], object] = _ignore
) -> str:
    """Export the weights of a checkpoint to a `.safetensors` file with timm's names.

    Args:
        directory: Checkpoint directory, as in `load`.
        out: New `.safetensors` file.
        weights: `"ema"` or `"variables"`, as in `load`.
        progress: Called with the name of each step when it starts.

    Returns:
        Summary in one line.

    Raises:
        InputError: The directory contains no checkpoint, or the file already exists.
    """
    progress(f"reading {directory}")
    model, variables, meta = checkpoint.load(directory, weights)
    tensors = to_torch(variables, model)
    grid = f"{model.grid[0]}x{model.grid[1]}"
    progress(f"writing {out}")
    description = json.dumps({key: meta[key] for key in EXPORTED_KEYS if key in meta})
    write_safetensors(out, tensors, {"model": model.variant, "grid": grid, META: description})
    return f"{out}: {len(tensors)} tensors of {model.variant}, sha256 {_sha256(Path(out))}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _selection(weights: WeightFile) -> dict[str, str]:
    """Return how many tensors `prefix` and each pattern of `ignore` left out."""
    selection = (
        {f"prefix {weights.prefix!r}": f"other tensors not read: {len(weights.outside)}"} if weights.prefix else {}
    )
    patterns = {f"ignore {pattern!r}": f"tensors not read: {len(names)}" for pattern, names in weights.ignored.items()}
    return selection | patterns


def _compare(weights: WeightFile, model: ViT, conversion: Conversion, photo: np.ndarray | None) -> str:
    """Compare a converted model with timm.

    Returns:
        The largest difference of the logits, or the reason why they were not compared.

    Raises:
        InputError: The logits differ by more than the tolerance.
    """
    try:
        if conversion.replaced:
            raise parity.CannotCompareError("the classifier is new")
        if model.in_chans != 3:
            raise parity.CannotCompareError(f"the photo requires in_chans=3, got in_chans={model.in_chans}")
        difference, scale = parity.compare_logits(
            weights, model, conversion.variables, zoo.preprocessing(model.variant), photo
        )
    except parity.CannotCompareError as error:
        return f"not compared with timm: {error}"
    result = f"largest logit difference from timm {difference:.1e} (logits up to {scale:.1f}) on a photo"
    limit = TOLERANCE * max(1.0, scale)
    if not difference <= limit:
        hint = "nothing was written; pass --no-parity to skip the comparison"
        raise invalid(model.variant, f"{result} must be <= {limit:.1e}", hint)
    return result

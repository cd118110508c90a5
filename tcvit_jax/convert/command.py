"""A whole conversion, either way, and the account it gives of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tcvit_jax import checkpoint, models
from tcvit_jax.convert import hub, parity
from tcvit_jax.convert.files import WeightFile, write_safetensors
from tcvit_jax.convert.mapping import Conversion, convert, to_torch
from tcvit_jax.convert.sources import read_state_dict
from tcvit_jax.errors import InputError, printable
from tcvit_jax.models import ViT, zoo

# What a difference from timm may be, where both compute in float32, of logits about 1; 2e-6 is usual.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Report:
    """What became of which tensors; print it for a table.

    Attributes:
        source: what was read.
        sha256: of that file.
        model: the name, with its tag.
        conversion: names that were mapped, resampled, replaced, ignored.
        parameters: how many numbers the model learns.
        expected: how many the name has, at its own resolution and classes.
        checksum: SHA-256 of the variables.
        parity: what a comparison with timm found, or why there was none.
        out: where it was written.
    """

    source: str
    sha256: str
    model: str
    conversion: Conversion
    parameters: int
    expected: int
    checksum: str
    parity: str
    out: str

    def __str__(self) -> str:
        done = self.conversion
        kinds = {"resampled": done.resampled, "replaced": done.replaced, "ignored": done.ignored}
        counts = [f"{len(done.mapped)} mapped", *(f"{len(names)} {kind}" for kind, names in kinds.items())]
        # A tensor that is refused is an error, and there is no report.
        rows = [
            ("source", f"{self.source}, sha256 {self.sha256}"),
            ("model", self.model),
            ("tensors", f"{', '.join(counts)}, 0 refused, {done.dtype}"),
            *((kind, ", ".join(names)) for kind, names in kinds.items() if names),
            ("parameters", f"{self.parameters:,}, where the name has {self.expected:,}"),
            ("parity", self.parity),
            ("checkpoint", f"{self.out}, sha256 of the variables {self.checksum}"),
        ]
        return "\n".join(f"{label:11} {printable(text)}" for label, text in rows)

    def provenance(self) -> dict[str, Any]:
        """What a checkpoint says of where it comes from."""
        done = self.conversion
        names = {kind: list(getattr(done, kind)) for kind in ("resampled", "replaced", "ignored")}
        return {
            "source": self.source, "sha256": self.sha256, "mapped": len(done.mapped), **names, "dtype": done.dtype,
            "parameters": self.parameters, "parity": self.parity, "versions": {"jax": jax.__version__},
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
    compare: bool = True,
    photo: str | Path | None = None,
) -> Report:
    """Convert published weights to a checkpoint directory that `load` and `eval.py` need nothing beside.

    Args:
        source, entry: as for `read_state_dict`.
        out: the directory, made here.
        name: of the model; by default the one of the hub's repository.
        overrides: of `create_model`, such as `img_size` and `num_classes`.
        new_head, grid: as for `from_torch`.
        compare: run the model beside timm's on `photo`, where torch and timm are installed.
        photo: an image file; by default a photo that comes with scikit-learn.

    Raises:
        InputError: weights that do not fit, or whose logits are not timm's; nothing is written then.
    """
    checkpoint.check_empty(Path(out).absolute())
    image = parity.photograph(photo) if photo is not None else None
    source = str(source)
    repo = hub.repository(source)
    if name is None:
        if repo is None:
            raise InputError(f"which model {source!r} is of has to be said: --model NAME, one of tc.list_models()")
        name = zoo.name_from_repository(repo)
    model = models.create_model(zoo.full_name(name), **(overrides or {}))
    weights = read_state_dict(source, entry)
    if not weights.path.is_file():
        raise InputError(f"{source!r} is a checkpoint already: --out FILE.safetensors writes its weights for timm")
    done = convert(weights, model, new_head=new_head, grid=grid)
    report = Report(
        source=(repo or weights.path.name) + (f" ({weights.entry})" if weights.entry else ""),
        sha256=_sha256(weights.path),
        model=model.variant,
        conversion=done,
        parameters=models.count_parameters(model),
        expected=zoo.get_entry(name).parameters,
        checksum="",
        parity=_parity(weights, entry, model, done, image) if compare else "not compared",
        out=str(out),
    )
    meta = {
        "model": models.to_config(model),
        "preprocessing": asdict(zoo.preprocessing(name)),
        "classes": None,
        "provenance": report.provenance(),
    }
    # A file that is mapped into memory leaves it before its copy is written.
    del weights
    return replace(report, checksum=checkpoint.save(out, done.variables, meta))


def to_safetensors(directory: str | Path, out: str | Path, weights: str | None = None) -> str:
    """Write a checkpoint's weights under timm's names, for timm or anybody else; returns what was done, in one line.

    Args:
        directory: as for `load`.
        out: the `.safetensors` file, made here.
        weights: `"ema"` or `"variables"`, as for `load`.

    Raises:
        InputError: no checkpoint, or a file that is there already.
    """
    model, variables, _ = checkpoint.load(directory, weights)
    tensors = to_torch(variables, model)
    grid = f"{model.grid[0]}x{model.grid[1]}"
    write_safetensors(out, tensors, {"model": model.variant, "grid": grid})
    return f"{out}: {len(tensors)} tensors of {model.variant}, sha256 {_sha256(Path(out))}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parity(weights: WeightFile, entry: str | None, model: ViT, done: Conversion, photo: np.ndarray | None) -> str:
    """The comparison with timm in words; raises where the logits are not the same."""
    try:
        if done.replaced:
            raise parity.CannotCompareError("the head is new")
        if model.in_chans != 3:
            raise parity.CannotCompareError(f"a photo has 3 channels, and the model in_chans={model.in_chans}")
        if entry is not None:
            raise parity.CannotCompareError("timm chooses the entry by itself")
        gap, scale = parity.largest_difference(
            weights.path, model, done.variables, zoo.preprocessing(model.variant), photo
        )
    except parity.CannotCompareError as reason:
        return f"not compared with timm: {reason}"
    found = f"largest logit difference from timm {gap:.1e} (of logits up to {scale:.1f}) on a photo"
    if not gap <= TOLERANCE * max(1.0, scale):
        raise InputError(f"{found}: nothing was written (--no-parity does not compare)")
    return found

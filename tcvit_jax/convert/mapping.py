"""Conversion between named tensors and variables. Every tensor and every variable is used exactly once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from tcvit_jax.convert import names as file_names
from tcvit_jax.convert.formats import TIMM, Format, Source, fitting_prefixes, format_of, wrapper_of
from tcvit_jax.convert.hints import prefix_hint, selection_hint
from tcvit_jax.convert.problems import (
    NOT_FOUND,
    InvalidTensorError,
    check_shape,
    check_unexpected,
    map_names,
    merge_blocks,
    summarize,
)
from tcvit_jax.convert.reader import Reader, check_periods, shape_of
from tcvit_jax.errors import invalid, kind_of
from tcvit_jax.models import ViT, variable_shapes
from tcvit_jax.models.create import check_model
from tcvit_jax.models.variables import named_leaves


@dataclass(frozen=True)
class Conversion:
    """Converted variables, and how each tensor was used.

    Attributes:
        variables: `{"params": ...}` and, if the model has any, `"batch_stats"`; NumPy arrays, float32 unless
            `keep_dtype`.
        mapped: Names of tensors that were converted without resampling.
        resampled: Names of position embeddings that were resampled to the grid of the model.
        replaced: Names of classifier tensors that were discarded; the new classifier is zero.
        ignored: Names of tensors that are not weights.
        dtypes: Names of the converted tensors by dtype.
        notes: What else was done with the tensors, one sentence each.
        warnings: Tensors whose values make the model useless as it is, one sentence each.
    """

    variables: dict[str, Any]
    mapped: tuple[str, ...]
    resampled: tuple[str, ...]
    replaced: tuple[str, ...]
    ignored: tuple[str, ...]
    dtypes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Dtype of the tensors, with their numbers if there are several."""
        if len(self.dtypes) == 1:
            return next(iter(self.dtypes))
        return " and ".join(f"{dtype} ({len(names)})" for dtype, names in self.dtypes.items())


def from_torch(
    state_dict: Mapping[str, Any],
    model: ViT,
    *,
    new_head: bool = False,
    grid: tuple[int, int] | None = None,
    resampling: tuple[str, bool] | None = None,
    keep_dtype: bool = False,
    adapt_patch_embed: bool = False,
) -> dict[str, Any]:
    """Convert named tensors of other projects to the variables of a model.

    The names are those of timm or of the official code of DeiT, DINO, MAE, DINOv2, DINOv3, EVA-02, LV-ViT, CLIP and
    OpenCLIP (image encoder), AugReg, big_vision, scenic, or transformers. A prefix of `names.PREFIXES`, such as
    `"module."`, is removed if that gives all tensors of the model.

    Args:
        state_dict: Tensors by name: NumPy, torch, or anything that `np.asarray` accepts, of floating-point dtypes.
        model: Model of `create_model` with matching sizes. Its reducer has no parameters and may be any. For another
            `img_size`, position embeddings are resampled as in timm: bicubic with antialiasing, or bilinear without
            antialiasing for names of AugReg, big_vision and scenic.
        new_head: Whether to discard the classifiers of `state_dict`. Those of `model`, with any number of classes, are
            then zero.
        grid: Patch grid `(height, width)` of the position embeddings in `state_dict`. By default the grid that the file
            records, or else a square.
        resampling: Method and antialiasing for position embeddings: a method of `jax.image.resize`, or
            `("cubic_torch", False)` as in most models of transformers. By default as above.
        keep_dtype: Whether variables of float16 and bfloat16 tensors keep their dtype. Otherwise they are float32.
        adapt_patch_embed: Whether to adapt the kernel of the patch embedding to another `patch_size` or number of
            channels, as timm does.

    Returns:
        `{"params": ...}` and, if the model has any, `"batch_stats"`; float32 unless `keep_dtype`.

    Raises:
        InputError: Names are missing, unexpected or duplicate, several prefixes fit, shapes do not match, values are
            not finite, or zeros make the output independent of the image. The message lists all problems in one line.

    Warns:
        UserWarning: A classifier or another kernel is constant, such as that of a model that was not trained.
    """
    conversion = convert(
        state_dict, model, new_head=new_head, grid=grid, resampling=resampling, keep_dtype=keep_dtype,
        adapt_patch_embed=adapt_patch_embed,
    )  # fmt: skip
    for text in conversion.warnings:
        warnings.warn(f"weights for {model.variant}: {text}", stacklevel=2)
    return conversion.variables


def to_torch(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """Convert the variables of a model to float32 tensors with timm's names and layouts. Inverse of `from_torch`.

    Raises:
        InputError: The variables do not match the model, or timm's format cannot store one of them.
    """
    tensors = to_tensors(variables, model)
    parts = file_names.split(
        tensors,
        separate_qkv=not model.qkv_fused,
        mlp_parts=("gate", "value") if model.mlp_layer == "swiglu" else (),
    )
    # timm has a class of its own for models with rotary positions.
    rows = file_names.TIMM_PARTS + (file_names.EVA if model.rope_type else ())
    renamed, others = file_names.rename(parts, rows)
    return renamed | {name: parts[name] for name in others}


def to_tensors(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """Convert the variables of a model to float32 tensors with the names and layouts of its parameter table.

    Raises:
        InputError: The variables do not match the model, or the table has no name for one of them.
    """
    _check_arguments(model, "variables", variables)
    arrays = dict(named_leaves(variables))
    for path, value in arrays.items():
        if not hasattr(value, "shape"):
            raise invalid(f"variables of {model.variant}: {path}", f"expected an array, got {kind_of(value)}")
    expected: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    problems = [(path, "unexpected") for path in set(arrays) - set(expected)]
    problems += [(path, NOT_FOUND) for path in set(expected) - set(arrays)]
    for path in set(arrays) & set(expected):
        try:
            check_shape(arrays[path].shape, expected[path].shape)
        except InvalidTensorError as error:
            problems.append((path, str(error)))
    if problems:
        raise invalid(f"variables of {model.variant}", summarize(problems))
    tensors: dict[str, np.ndarray] = {}
    for path, value in arrays.items():
        entry = model.PARAMETERS.tensors(_table_path(path), TIMM.name)
        if entry is None or entry.layout.dump is None:
            problems.append((path, f"cannot be stored in {TIMM.name} files"))
            continue
        (name,) = entry.names
        tensors[name] = np.ascontiguousarray(entry.layout.dump(np.asarray(value, np.float32)))
    if problems:
        raise invalid(f"variables of {model.variant}", summarize(problems))
    return tensors


def convert(
    tensors: Mapping[str, Any],
    model: ViT,
    *,
    new_head: bool = False,
    grid: tuple[int, int] | None = None,
    resampling: tuple[str, bool] | None = None,
    keep_dtype: bool = False,
    adapt_patch_embed: bool = False,
    ignored: Sequence[str] = (),
) -> Conversion:
    """Convert named tensors as `from_torch` does, and also return how each tensor was used.

    Args:
        tensors: Tensors by name.
        model: Model of `create_model`.
        new_head: Whether to discard the classifiers.
        grid: Patch grid of the position embeddings.
        resampling: Method and antialiasing for position embeddings.
        keep_dtype: Whether variables of float16 and bfloat16 tensors keep their dtype.
        adapt_patch_embed: Whether to adapt the kernel of the patch embedding.
        ignored: Regular expressions of canonical names of tensors that the model does not use.

    Raises:
        InputError: The tensors do not match the model, as for `from_torch`.
    """
    _check_arguments(model, "state_dict", tensors)
    table, file_format = model.PARAMETERS, format_of(tensors)
    shapes: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    entries = {path: table.tensors(_table_path(path), file_format.name) for path in shapes}
    classifiers = table.classifier_tensors(file_format.name)
    encoder = {name for entry in entries.values() if entry for name in entry.names} - classifiers
    prefix = _choose_prefix(tensors, encoder, file_format, model)
    sources, problems = map_names(file_format.sources(tensors, model.depth, prefix))
    zeros = file_format.zeros(tensors, prefix)
    unused = [
        name
        for name, source in sources.items()
        if any(re.fullmatch(pattern, name) for pattern in ignored)
        or _is_optional(name, tensors, source, encoder, model)
    ]
    skipped = {name for key in unused if key.startswith("attn_pool.") for name in sources[key].names}
    for name in unused:
        del sources[name]
    problems += check_periods(tensors, model)
    pre_logits = {name for name in sources if re.fullmatch(file_format.pre_logits, name)}
    dropped = (classifiers | pre_logits) & set(sources) if new_head else set[str]()
    remaining, expected_names = set(sources) - dropped, list[str]()
    reader = Reader(
        tensors, model, grid or getattr(tensors, "grid", None), resampling or file_format.resampling,
        keep_dtype=keep_dtype, adapt_patch_embed=adapt_patch_embed,
    )  # fmt: skip
    variables: dict[str, np.ndarray] = {}
    for path, expected in shapes.items():
        row, entry = table.row(_table_path(path)), entries[path]
        if entry is None:
            problems.append((path, f"cannot be stored in {file_format.name} files"))
            continue
        if row.role == "classifier" and (new_head or zeros.issuperset(entry.names)):
            variables[path] = np.zeros(expected.shape, np.float32)
            continue
        expected_names += entry.names
        missing = [name for name in entry.names if name not in remaining]
        remaining.difference_update(entry.names)
        if missing:
            problems += [(name, NOT_FOUND) for name in missing]
            continue
        variable, errors = reader.read(row, entry, sources, expected.shape)
        problems += errors
        if variable is not None:
            variables[path] = variable
    if pre_logits - dropped:
        # With a classifier of zeros the layer in front of it has no effect. The files of the original ViT have one.
        kernels = [path for path in variables if table.row(_table_path(path)).role == "classifier" and "kernel" in path]
        if kernels and not any(variables[path].any() for path in kernels):
            remaining -= pre_logits
        problems += [(name, "a layer that the model does not have") for name in remaining & pre_logits]
    unexpected = [name for canonical_name in remaining - pre_logits for name in sources[canonical_name].names]
    problems += check_unexpected(unexpected, problems)
    if problems:
        hint = selection_hint(list(tensors), expected_names, classifiers | pre_logits, problems, file_format, prefix)
        if reader.is_adaptable and not hint:
            hint = "use adapt_patch_embed=True (--adapt-patch-embed) to adapt the kernel as timm does"
        raise invalid(f"weights for {model.variant}", summarize(problems), hint)
    reader.add_prefix_positions(variables)
    replaced = {name for canonical_name in dropped for name in sources[canonical_name].names}
    mapped = {name for names in reader.names.values() for name in names}
    return Conversion(
        variables=traverse_util.unflatten_dict(variables, sep="."),
        mapped=tuple(sorted(mapped - set(reader.resampled))),
        resampled=tuple(reader.resampled),
        replaced=tuple(sorted(replaced)),
        ignored=tuple(sorted(set(tensors) - mapped - replaced)),
        dtypes={dtype: tuple(sorted(set(names))) for dtype, names in sorted(reader.names.items())},
        notes=(
            *([f"prefix {prefix!r} was removed from names"] if prefix else []),
            *([f"{len(skipped)} tensors of attention pooling were not used"] if skipped else []),
            *reader.notes,
        ),
        warnings=tuple(f"{name}: {problem}" for name, problem in merge_blocks(reader.warnings)),
    )


def _choose_prefix(names: Collection[str], encoder: Collection[str], file_format: Format, model: ViT) -> str:
    """Return the prefix to remove from names: the one that gives all tensors of the encoder, or one of all names.

    Raises:
        InputError: Several prefixes give all tensors.
    """
    prefixes = fitting_prefixes(names, encoder, file_format, model.depth)
    if len(prefixes) > 1:
        raise invalid(f"weights for {model.variant}", "several prefixes fit", prefix_hint(prefixes))
    return prefixes[0] if prefixes else wrapper_of(names)


def _is_optional(name: str, tensors: Mapping[str, Any], source: Source, encoder: Collection[str], model: ViT) -> bool:
    """Return whether a tensor is left out because the model does not have it.

    These are attention pooling, if the model has the mean in its place, as some of SigLIP, and zero registers.
    """
    if name in encoder:
        return False
    if name.startswith("attn_pool."):
        return model.global_pool == "avg" and not model.class_token
    return name == "reg_token" and 0 in (shape_of(tensors, source.names[0]) or ())


def _check_arguments(model: object, name: str, arrays: object) -> None:
    """Raise an `InputError` unless `model` is a model and `arrays`, the argument `name`, a mapping from strings."""
    check_model(model)
    if not isinstance(arrays, Mapping):
        hint = "pass its state_dict()" if hasattr(arrays, "state_dict") else ""
        raise invalid(name, f"expected a mapping from names to arrays, got {kind_of(arrays)}", hint)
    for key in arrays:
        if not isinstance(key, str):
            raise invalid(name, f"expected names of type str, got {kind_of(key)}")


def _table_path(path: str) -> str:
    """Return the path of a variable as in the parameter tables, such as `params/blocks_0/norm1/scale`."""
    return path.replace(".", "/")

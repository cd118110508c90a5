"""Named tensors to a model's variables and back: every tensor and every variable exactly once, or an error."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tcvit_jax.convert.rules import TIMM, dialect_of
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT, variable_shapes
from tcvit_jax.ops.positions import resample_positions


@dataclass(frozen=True)
class Conversion:
    """Variables, and what was done with which tensors.

    Attributes:
        variables: `{"params": ...}`, and `"batch_stats"` where the model has any; float32 NumPy arrays.
        mapped: names that were taken as they are, but for their layout.
        resampled: names whose positions were resampled for the model's grid.
        replaced: names of a classifier that was left out; the model's own starts at zero.
        ignored: names that hold no weight.
        dtype: that of the tensors.
    """

    variables: dict[str, Any]
    mapped: tuple[str, ...]
    resampled: tuple[str, ...]
    replaced: tuple[str, ...]
    ignored: tuple[str, ...]
    dtype: str


def from_torch(
    state_dict: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The variables of `model` from named tensors: timm's names, those of LV-ViT's authors, or of AugReg's `.npz`.

    Args:
        state_dict: names to arrays: NumPy, torch, or anything `np.asarray` takes; of one floating-point dtype.
        model: from `create_model`, of the same sizes. Reducers have no parameters, so any of them fits. Where its
            `img_size` is another one, positions are resampled as timm does.
        new_head: leave out the classifiers of `state_dict`; those of `model`, of any number of classes, start at zero.
        grid: patches in height and width that `state_dict` has positions for; by default a square, or what its file
            says.

    Returns:
        `{"params": ...}`, and `"batch_stats"` where the model has any; float32.

    Raises:
        InputError: names missing, names nobody reads, shapes that differ, dtypes that are mixed or not of numbers,
            values that are not finite: all of them, in one line.
    """
    return convert(state_dict, model, new_head=new_head, grid=grid).variables


def to_torch(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: timm's names and layouts, float32, for `model`'s variables."""
    tensors = {}
    for path, value in _flat(variables).items():
        rule, (name,) = TIMM.rule(path)
        assert rule.layout.dump is not None
        tensors[name] = np.ascontiguousarray(rule.layout.dump(np.asarray(value, np.float32)))
    missing = {TIMM.rule(path)[1][0] for path in _flat(variable_shapes(model))} ^ set(tensors)
    if missing:
        raise InputError(
            f"these are not the variables of {model.variant}: {_listed([(n, 'differs') for n in missing])}"
        )
    return tensors


def checksum(variables: Mapping[str, Any]) -> str:
    """SHA-256 of all variables, in the order of their paths."""
    digest = hashlib.sha256()
    for path, value in sorted(_flat(variables).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(np.asarray(value, np.float32)).data)
    return digest.hexdigest()


def convert(
    tensors: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> Conversion:
    """As `from_torch`, with an account of what was done."""
    grid = grid or getattr(tensors, "grid", None)
    dialect = dialect_of(tensors)
    names, problems = _read_names(dialect.canonical(tensors))
    ignored = tuple(sorted(set(tensors) - set(names.values()))) if not problems else ()
    dropped = {name for name in names if new_head and re.fullmatch(dialect.head, name)}
    unread, variables, resampled, dtypes = set(names) - dropped, {}, [], {}
    for path, expected in _flat(variable_shapes(model)).items():
        rule, wanted = dialect.rule(path)
        if rule.kind == "head" and new_head:
            variables[path] = np.zeros(expected.shape, np.float32)
            continue
        missing = [name for name in wanted if name not in unread]
        unread.difference_update(wanted)
        if missing:
            problems += [(name, "is missing") for name in missing]
            continue
        sources = [_to_numpy(tensors[names[name]]) for name in wanted]
        wrong = [*_check_values(wanted, sources)]
        if not wrong:
            dtypes.update({name: source.dtype.name for name, source in zip(wanted, sources, strict=True)})
            if rule.kind == "positions" and _grid_of(sources[0], model, grid) not in (None, model.grid):
                sources = [_resample(sources[0], model, grid)]
                resampled += wanted
            wrong = [*_check_shapes(wanted, sources, rule.layout.shapes(expected.shape, model.num_heads))]
        if not wrong:
            variables[path] = np.ascontiguousarray(rule.layout.load(sources, expected.shape), np.float32)
        problems += wrong
    problems += [*_check_dtypes(dtypes), *_unexpected(unread, problems)]
    if problems:
        raise InputError(
            f"the weights do not fit {model.variant}: {_listed(problems)}{_advice(problems, dialect.head)}"
        )
    return Conversion(
        variables=traverse_util.unflatten_dict(variables, sep="."),
        mapped=tuple(sorted(names[name] for name in set(names) - dropped - set(resampled))),
        resampled=tuple(names[name] for name in resampled),
        replaced=tuple(sorted(names[name] for name in dropped)),
        ignored=ignored,
        dtype=next(iter(dtypes.values()), "float32"),
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by their paths, `params.blocks_0.norm1.scale`."""
    return dict(traverse_util.flatten_dict(dict(tree), sep="."))


Problem = tuple[str, str]


def _read_names(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[Problem]]:
    """Names as the rules have them to those of the file; two for one are a problem."""
    names: dict[str, str] = {}
    problems = []
    for known, name in pairs:
        if known in names:
            problems.append((name, f"is there twice, also as {names[known]}"))
        names[known] = name
    return names, problems


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # torch has no NumPy counterpart of bfloat16: its bits are read as JAX's.
        if str(value.dtype) == "torch.bfloat16":
            import torch
            from ml_dtypes import bfloat16

            return value.view(torch.int16).numpy().view(bfloat16)
        return value.numpy()
    return np.asarray(value)


def _check_values(names: Sequence[str], tensors: Sequence[np.ndarray]) -> Iterable[Problem]:
    for name, tensor in zip(names, tensors, strict=True):
        if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            yield name, f"has dtype {tensor.dtype.name}, which is not one of weights"
        elif not _finite(tensor):
            yield name, "holds values that are not finite"


def _finite(tensor: np.ndarray) -> bool:
    """Whether every value is a number of float32, which it is going to be."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(tensor.astype(np.float32, copy=False)).all())


def _check_shapes(names: Sequence[str], tensors: Sequence[np.ndarray], shapes: Sequence[Any]) -> Iterable[Problem]:
    for name, tensor, shape in zip(names, tensors, shapes, strict=True):
        if tensor.shape != shape:
            yield name, f"has shape {tensor.shape}, the model's is {shape}"


def _check_dtypes(dtypes: Mapping[str, str]) -> Iterable[Problem]:
    """A file has one dtype; a tensor that differs has been tampered with, or rounded by mistake."""
    most = max(set(dtypes.values()), key=list(dtypes.values()).count, default="")
    for name, dtype in dtypes.items():
        if dtype != most:
            yield name, f"has dtype {dtype}, and most have {most}"


def _unexpected(unread: Iterable[str], problems: Sequence[Problem]) -> Iterable[Problem]:
    missing = [name for name, what in problems if what == "is missing"]
    for name in sorted(unread):
        near = difflib.get_close_matches(name, missing, n=1)
        yield name, "has no place in the model" + (f", which lacks {near[0]}" if near else "")


def _grid_of(positions: np.ndarray, model: ViT, grid: tuple[int, int] | None) -> tuple[int, int] | None:
    """Patches in height and width that a file has positions for; None where their number is no square."""
    if positions.ndim != 3:
        return None
    count = positions.shape[1] - _prefix_positions(model)
    side = round(max(count, 0) ** 0.5)
    if grid is not None:
        return grid if grid[0] * grid[1] == count else None
    return (side, side) if count > 0 and side * side == count else None


def _prefix_positions(model: ViT) -> int:
    return 0 if model.no_embed_class else model.prefix


def _resample(positions: np.ndarray, model: ViT, grid: tuple[int, int] | None) -> np.ndarray:
    found = _grid_of(positions, model, grid)
    assert found is not None
    return np.asarray(
        resample_positions(jnp.asarray(positions, jnp.float32), _prefix_positions(model), found, model.grid)
    )


def _advice(problems: Sequence[Problem], head: str) -> str:
    """What would help, where every problem is one of the classifier."""
    own = all(re.fullmatch(head, name) for name, _ in problems)
    return "; another classifier replaces it with new_head (--new-head)" if own else ""


def _listed(problems: Sequence[Problem]) -> str:
    """All problems in one line; what is the same in several blocks, once, with their numbers."""
    numbers: dict[Problem, list[int]] = {}
    block = re.compile(r"(?<=blocks\.)\d+|(?<=encoderblock_)\d+")
    for name, what in sorted(set(problems)):
        found = block.search(name)
        numbers.setdefault((block.sub("*", name), block.sub("*", what)), []).extend([int(found[0])] if found else [])
    return "; ".join(f"{name} {what}".replace("*", _span(of)) for (name, what), of in numbers.items())


def _span(numbers: Sequence[int]) -> str:
    if len(numbers) <= 1:
        return "".join(map(str, numbers))
    ordered = sorted(numbers)
    whole = ordered == list(range(ordered[0], ordered[-1] + 1))
    return "{" + (f"{ordered[0]}-{ordered[-1]}" if whole else ",".join(map(str, ordered))) + "}"

"""Tensors in several files as one mapping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from tcvit_jax import schema
from tcvit_jax.convert.files import read_file
from tcvit_jax.convert.problems import shorten
from tcvit_jax.convert.weight_file import Kind, WeightFile
from tcvit_jax.errors import cannot_read

MAX_INDEX = 50 * 10**6
_HINT = "the files are of another version than the index"


class _Index(TypedDict):
    weight_map: dict[str, str]


def open_shards(index: Path, resolve: Callable[[str], Path]) -> WeightFile:
    """Open the files that an index of transformers names. Every tensor is in exactly the file that the index says.

    Args:
        index: A file such as `model.safetensors.index.json`, whose `weight_map` has the file of each tensor.
        resolve: Function that checks the name of a file, and returns its path.

    Returns:
        The tensors of all files, which are read one at a time. Its path is that of the index.

    Raises:
        InputError: The index is invalid, a file is not found or cannot be read, or the tensors of a file are not those
            of the index.
    """
    file_of = schema.read_json(index, _Index, MAX_INDEX)["weight_map"]
    if not file_of:
        raise cannot_read(index, "weight_map: expected the file of each tensor")
    paths = {name: resolve(name) for name in sorted(set(file_of.values()))}
    shards = {name: read_file(path) for name, path in paths.items()}
    _check_names(index, file_of, shards)
    kinds: set[Kind] = {shard.kind for shard in shards.values()}
    if len(kinds) > 1:
        raise cannot_read(index, f"expected files of one kind, got {' and '.join(sorted(kinds))}")
    return WeightFile(
        index,
        tuple(file_of),
        lambda name: shards[file_of[name]][name],
        lambda name: shards[file_of[name]].shape(name),
        kind=kinds.pop(),
        files=tuple(paths.values()),
    )


def _check_names(index: Path, file_of: Mapping[str, str], shards: Mapping[str, WeightFile]) -> None:
    """Raise an `InputError` unless each file has exactly the tensors that the index says."""
    missing = [name for name, file in file_of.items() if name not in shards[file]]
    extra = [(name, file) for file, shard in shards.items() for name in shard if file_of.get(name) != file]
    for name, file in extra:
        others = [other for other, shard in shards.items() if other != file and name in shard]
        if others:
            raise cannot_read(index, f"duplicate tensor {name!r}, in {file} and in {others[0]}")
    if missing:
        names = [f"{name} in {file_of[name]}" for name in missing]
        raise cannot_read(index, f"not found: {shorten(names)}", _HINT)
    if extra:
        names = [f"{name} in {file}" for name, file in extra]
        raise cannot_read(index, f"not in the index: {shorten(names)}", _HINT)

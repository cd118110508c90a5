"""Directories with a model's configuration and weights, as transformers and timm write them.

Nothing in a directory is executed, and no file outside it is opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tcvit_jax import schema
from tcvit_jax.checkpoint import CHECKPOINTS_DIR
from tcvit_jax.convert.files import read_file
from tcvit_jax.convert.shards import open_shards
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.errors import cannot_read, kind_of
from tcvit_jax.files import check_regular

CONFIG, PROCESSOR, PROCESSORS = "config.json", "preprocessor_config.json", "processor_config.json"
# Of peft, beside the weights of an adapter such as LoRA.
ADAPTER = "adapter_config.json"
# Weight files, in the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
INDEX_SUFFIX = ".index.json"
MAX_CONFIG = 10**7


@dataclass(frozen=True)
class Directory:
    """A directory with a configuration and weights.

    Attributes:
        path: The directory.
        kind: `"transformers"`, or `"timm"` for the directory of a repository of timm.
        config: Content of `config.json`.
        processor: The configuration of the image processor, or None if there is none.
        processor_path: Path of the file of `processor`.
    """

    path: Path
    kind: Literal["transformers", "timm"]
    config: dict[str, Any]
    processor: dict[str, Any] | None
    processor_path: Path

    @property
    def config_path(self) -> Path:
        """Path of `config.json`."""
        return self.path / CONFIG


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory with `config.json`, weights or an adapter, but no run directory."""
    names = (CONFIG, ADAPTER, *WEIGHT_FILES)
    return path.is_dir() and any(_exists(path / name) for name in names) and not (path / CHECKPOINTS_DIR).is_dir()


def open_directory(path: str | Path) -> Directory:
    """Read the configuration in a directory of transformers or timm.

    Args:
        path: The directory: `config.json` has `model_type` (transformers) or `architecture` (timm).

    Returns:
        The directory, whose weights were not opened.

    Raises:
        InputError: The directory or its configuration is not found or cannot be read, a file is a link out of the
            directory, or the configuration is of another kind.
    """
    path = Path(path)
    check_no_adapter(path)
    if not _exists(path / CONFIG):
        raise cannot_read(path, f"{CONFIG} not found", "pass --model NAME or model=NAME, one of tc.list_models()")
    config = _read_object(_resolve(path, CONFIG))
    is_timm = isinstance(config.get("architecture"), str)
    if is_timm == isinstance(config.get("model_type"), str):
        problem = "expected the name model_type (transformers) or architecture (timm)"
        raise cannot_read(path / CONFIG, f"{problem}, got both" if is_timm else problem)
    return Directory(path, "timm" if is_timm else "transformers", config, *read_processor_file(path))


def check_no_adapter(path: Path) -> None:
    """Raise an `InputError` for a directory with an adapter, which transformers adds to the weights."""
    if _exists(path / ADAPTER):
        raise cannot_read(path / ADAPTER, "adapters are not supported", "merge the adapter into the weights")


def open_weights(path: Path) -> WeightFile:
    """Open the weights in a directory: all tensors of all files, under their names in the files.

    Raises:
        InputError: The directory has no weights or an adapter beside them, or they cannot be read.
    """
    check_no_adapter(path)
    name = next((each for each in WEIGHT_FILES if _exists(path / each)), None)
    if name is None:
        raise cannot_read(path, "weights not found", f"expected {', '.join(WEIGHT_FILES)}")
    file = _resolve(path, name)
    if not name.endswith(INDEX_SUFFIX):
        return read_file(file)

    def resolve(shard: str) -> Path:
        check_file_name(shard, file)
        return _resolve(path, shard)

    return open_shards(file, resolve)


def read_model_type(path: Path) -> str:
    """Return `model_type` of the `config.json` of a directory, or "" if there is none.

    Raises:
        InputError: The file cannot be read, or is a link out of the directory.
    """
    value = _read_object(_resolve(path, CONFIG)).get("model_type") if _exists(path / CONFIG) else None
    return value if isinstance(value, str) else ""


def read_processor_file(path: Path) -> tuple[dict[str, Any] | None, Path]:
    """Return the configuration of the image processor of a directory, or None if there is none, and its file.

    Version 5 of transformers may write it as a part of `processor_config.json`.

    Raises:
        InputError: A file cannot be read, or is a link out of the directory.
    """
    if _exists(path / PROCESSOR) or not _exists(path / PROCESSORS):
        file = path / PROCESSOR
        return _read_object(_resolve(path, PROCESSOR)) if _exists(file) else None, file
    file = _resolve(path, PROCESSORS)
    processor: Any = _read_object(file).get("image_processor")
    if processor is not None and not isinstance(processor, dict):
        raise cannot_read(file, f"image_processor: expected an object, got {kind_of(processor)}")
    return processor, file


def _read_object(path: Path) -> dict[str, Any]:
    values = schema.read_json(path, dict[str, Any], MAX_CONFIG)
    _check_finite(values, path)
    return values


def _check_finite(value: Any, subject: Path, key: str = "") -> None:
    """Raise an `InputError` for an infinite number, as which Python reads 1e999."""
    if isinstance(value, float) and not math.isfinite(value):
        raise cannot_read(subject, f"{key}: must be finite")
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check_finite(each, subject, f"{key}.{name}".removeprefix("."))


def check_file_name(name: str, index: Path) -> None:
    """Check that a name in an index is that of a file in the directory of the index.

    Raises:
        InputError: It is not.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise cannot_read(index, f"expected the name of a file in the directory, got {name!r}")


def _resolve(directory: Path, name: str) -> Path:
    """Return the path of a file of a directory.

    The cache of the Hugging Face Hub consists of links from `snapshots/REVISION/NAME` to `blobs/HASH`, which are
    followed. Other links out of the directory are not.

    Args:
        directory: The directory.
        name: Name of the file.

    Raises:
        InputError: The file is not found, is no regular file, or is a link out of the directory.
    """
    path = directory / name
    check_regular(path)
    root, target = directory.resolve(), path.resolve()
    roots = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        roots.append(root.parents[1] / "blobs")
    if not any(target.is_relative_to(each) for each in roots):
        raise cannot_read(path, "a link out of the directory", "replace the link with the file")
    return path


def _exists(path: Path) -> bool:
    """Return whether there is a file of any kind, or a link."""
    return path.exists() or path.is_symlink()

"""Self-contained checkpoints: a model's variables as Orbax items, the metadata that rebuilds the model, and a manifest.

The manifest holds a digest of every other file, and every reader compares it before anything else is opened.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NotRequired, Self, TypedDict

import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from tcvit_jax import atomic, manifest, models, schema, sharding
from tcvit_jax.devices import device_error
from tcvit_jax.errors import InputError, cannot_read, first_line, invalid, unknown
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing

# The directory of checkpoints in a run directory, and the items of each checkpoint.
CHECKPOINTS_DIR, META, VARIABLES, EMA = "checkpoints", "meta", "variables", "ema"
# The key of the metadata, on disk only, that says that there is a manifest: without it, a lost manifest would pass for
# a checkpoint of an earlier version.
HAS_MANIFEST = "has_manifest"
CHECKSUM = "checksum"
# Methods for the resampling of position embeddings that `provenance` may name.
RESAMPLING_METHODS = ("cubic", "linear", "cubic_torch")
_NO_PREPROCESSING = (
    "save it with checkpoint.save(..., meta), or add preprocessor_config.json to a directory of transformers"
)
UNVERIFIED = "not verified, because an earlier version wrote it without a manifest"

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Model(TypedDict):
    # `models.from_config` checks the values.
    name: str
    overrides: dict[str, Any]
    reducer: dict[str, Any]
    removed: list[schema.Count]


class _Split(TypedDict):
    name: str
    dir: str
    split: str
    images: schema.Count
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]


class _Meta(TypedDict):
    model: _Model
    # `Preprocessing.from_config` checks the values.
    preprocessing: NotRequired[dict[str, Any]]
    classes: NotRequired[list[str] | None]
    step: NotRequired[schema.Count]
    seed: NotRequired[int | None]
    # `config.restore` checks the values.
    config: NotRequired[dict[str, Any] | None]
    versions: NotRequired[dict[str, str]]
    provenance: NotRequired[dict[str, Any]]
    trained_with: NotRequired[dict[str, Any]]
    data: NotRequired[list[_Split]]
    evaluate: NotRequired[bool]
    checksum: NotRequired[_Text]
    has_manifest: NotRequired[bool]


def load(directory: str | Path, weights: str | None = None) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Load a checkpoint of a run or a converted checkpoint, and verify all of its files.

    Args:
        directory: A run directory, its directory of checkpoints, or one checkpoint; of several, the newest is loaded.
        weights: `"ema"` for the moving averages, which evaluations of a run use, or `"variables"` for the trained or
            converted variables. By default the averages, if there are any.

    Returns:
        A tuple `(model, variables, meta)`: the module; `{"params": ...}` and, if the model has any, `"batch_stats"`,
        replicated on all devices; and the metadata: `model`, `preprocessing` and `classes`; for a run also `step`,
        `seed` and `config`; for a converted checkpoint also `checksum` and `provenance`.

    Raises:
        InputError: No checkpoint is found, or it is damaged or cannot be read. If the newest checkpoint of a run is
            damaged, the message names an older one that is intact; it is never loaded instead.
    """
    folder = _resolve(Path(directory)).absolute()
    items = [item for item in (EMA, VARIABLES) if (folder / item).is_dir()]
    if not items:
        raise cannot_read(folder, f"{VARIABLES} not found", "the checkpoint is incomplete")
    if weights is not None and weights not in items:
        raise invalid(directory, str(unknown("weights", weights, items)))
    meta = _read_meta(folder)
    with read_errors(folder):
        try:
            model = models.from_config(meta["model"])
        except InputError as error:
            raise cannot_read(folder / META, f"model: {error}") from error
        shapes = models.variable_shapes(model)
    with read_errors(folder), ocp.StandardCheckpointer() as reader:
        target = sharding.as_replicated(shapes, sharding.data_mesh())
        variables = reader.restore(folder / (weights or items[0]), target)
    return model, variables, meta


def read_meta(directory: str | Path) -> dict[str, Any]:
    """Read and verify the metadata of a checkpoint, as `load` returns it, without the variables.

    Args:
        directory: As for `load`.

    Returns:
        The metadata.

    Raises:
        InputError: No checkpoint is found, or its metadata are damaged or cannot be read.
    """
    return _read_meta(_resolve(Path(directory)).absolute(), within=META)


def read_preprocessing(meta: Mapping[str, Any], name: str | Path) -> Preprocessing:
    """Return the preprocessing of a checkpoint.

    Args:
        meta: The metadata, as `load` returns them.
        name: The checkpoint, for error messages.

    Raises:
        InputError: The metadata have no preprocessing, or it is invalid.
    """
    if "preprocessing" not in meta:
        raise cannot_read(name, "no preprocessing in its metadata", _NO_PREPROCESSING)
    try:
        return Preprocessing.from_config(meta["preprocessing"])
    except InputError as error:
        raise cannot_read(name, f"preprocessing in its metadata: {error}") from error


def read_resampling(meta: Mapping[str, Any], name: str | Path) -> tuple[str, bool] | None:
    """Return how the library of the weights of a checkpoint resamples position embeddings.

    Args:
        meta: The metadata, as `load` returns them.
        name: The checkpoint, for error messages.

    Returns:
        The method and antialiasing, or None for those of timm.

    Raises:
        InputError: The value in the metadata is invalid.
    """
    value: Any = meta.get("provenance", {}).get("resampling")
    if value is None:
        return None
    match value:
        case [str(method), bool(antialias)] if method in RESAMPLING_METHODS:
            return method, antialias
        case _:
            expected = f"[METHOD, ANTIALIAS] with METHOD {' or '.join(RESAMPLING_METHODS)}"
            raise cannot_read(name, f"provenance.resampling in its metadata: expected {expected}, got {value!r}")


def _read_meta(folder: Path, within: str = "") -> dict[str, Any]:
    """Verify the files of a checkpoint, or those `within` one of its items, and return its metadata."""
    if problem := find_damage(folder, within):
        is_step = folder in (steps := step_folders(folder.parent))
        others = [step for step in reversed(steps) if is_step and step != folder]
        intact = next((step for step in others if find_damage(step) is None), None)
        hint = f"the checkpoint {intact} is intact" if intact else "the checkpoint is damaged"
        raise cannot_read(folder, f"checkpoint cannot be read: {problem}", hint)
    with read_errors(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        meta = check_meta(reader.restore(folder / META), folder)
    if not manifest.exists(folder):
        warnings.warn(f"{folder}: {UNVERIFIED}", stacklevel=3)
    return meta


def check_meta(values: Any, folder: Path) -> dict[str, Any]:
    """Check the types of metadata as they are on disk.

    Args:
        values: The metadata.
        folder: The checkpoint.

    Returns:
        The metadata, as `load` returns them.

    Raises:
        InputError: A value is missing or has the wrong type.
    """
    meta: dict[str, Any] = dict(schema.check(values, folder / META, _Meta))
    meta.pop(HAS_MANIFEST, None)
    return meta


def parse_meta(text: str, subject: Path) -> dict[str, Any]:
    """Parse metadata that were written as JSON text to another file.

    Args:
        text: The text.
        subject: The file, for error messages.

    Raises:
        InputError: The text is not JSON, or a value is missing or has the wrong type.
    """
    return dict(schema.parse(text, subject, _Meta))


def find_damage(folder: Path, within: str = "") -> str | None:
    """Compare a checkpoint with its manifest.

    Args:
        folder: The checkpoint. One of an earlier version, without a manifest, is only searched for special files.
        within: An item to which the comparison is limited; by default everything is compared.

    Returns:
        The first problem, such as `"ema/_METADATA: not found"`, or None if there is none.
    """
    if manifest.exists(folder):
        return manifest.find_damage(folder, within)
    try:
        manifest.check_regular_files(folder)
        meta = schema.read_json(folder / META / "metadata", dict[str, Any])
    except InputError as error:
        return str(error)
    return f"{manifest.NAME}: not found" if meta.get(HAS_MANIFEST) else None


def step_folders(root: Path) -> list[Path]:
    """Return the checkpoints in a directory of checkpoints, by step.

    Args:
        root: The directory, which may not exist. Names that are no decimal number in ASCII are ignored.
    """
    steps = [path for path in root.glob("*") if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(steps, key=lambda path: int(path.name))


def save(directory: str | Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Write a checkpoint atomically, in the form that `load` reads.

    Args:
        directory: The directory, which must be empty if it exists.
        variables: The variables of the model, NumPy or JAX arrays.
        meta: The metadata: `model`, `preprocessing`, `classes` and any other values that JSON can encode.

    Returns:
        The `checksum` of the variables, which identifies their values and is added to `meta`.

    Raises:
        InputError: The directory is not empty, or cannot be written.
    """
    directory, digest = Path(directory).absolute(), checksum(variables)
    check_empty(directory)
    with atomic.write(directory) as draft:
        draft.mkdir()
        # Compression doubles the memory in use and makes files of weights only 7 % smaller.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as writer:
            writer.save(draft / VARIABLES, args=ocp.args.PyTreeSave(jax.tree.map(_without_copy, dict(variables))))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(draft / META, {**meta, CHECKSUM: digest, HAS_MANIFEST: True})
        manifest.write(draft)
    return digest


class _Shared(np.ndarray):
    """An array that Orbax does not copy.

    It copies all NumPy arrays before it writes them in the background, because they could change. `save` waits for it.
    """

    def __deepcopy__(self, memo: dict[int, Any] | None, /) -> Self:
        return self


def _without_copy(leaf: Any) -> Any:
    return leaf.view(_Shared) if isinstance(leaf, np.ndarray) else leaf


def checksum(variables: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all variables, as float32 and in the order of their paths."""
    digest = hashlib.sha256()
    for path, value in sorted(traverse_util.flatten_dict(dict(variables), sep=".").items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(np.asarray(value, np.float32)).data)
    return digest.hexdigest()


def check_empty(directory: Path) -> None:
    """Raise an `InputError` if `directory` exists and is not an empty directory."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise invalid(directory, "already exists", "choose another directory, or remove it")


@contextmanager
def read_errors(folder: Path) -> Generator[None]:
    """Convert an exception of the block to an `InputError` that names the checkpoint, the device or the memory.

    Orbax and TensorStore raise various types for a checkpoint that cannot be read. Other errors of JAX, such as a lost
    connection to another process, say nothing about the checkpoint and are raised unchanged.

    Args:
        folder: The checkpoint.

    Yields:
        None.

    Raises:
        InputError: The block failed. An `InputError` of the block is raised unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # A missing device or a lack of memory says nothing about the checkpoint.
        if unavailable := device_error(error):
            raise unavailable from error
        if isinstance(error, jax.errors.JaxRuntimeError):  # pyright: ignore[reportUnunavailableMemberType]
            raise
        raise cannot_read(folder, f"checkpoint cannot be read: {first_line(error)}") from error


def _resolve(directory: Path) -> Path:
    """Return `directory` if it is a checkpoint, or the newest checkpoint in it."""
    for root in (directory / CHECKPOINTS_DIR, directory):
        # A damaged checkpoint counts too: an older one must not take its place silently.
        if steps := step_folders(root):
            return steps[-1]
    if (directory / META).is_dir() or manifest.exists(directory):
        return directory
    runs = (
        sorted(str(p.parent) for p in directory.parent.glob(f"*/{CHECKPOINTS_DIR}"))
        if directory.parent.is_dir()
        else []
    )
    described = sorted(str(path.parent) for path in directory.glob("*/config.json"))
    if (directory / "config.json").is_file():
        hint = "convert the directory to a checkpoint first"
    elif described:
        hint = f"directories with config.json: {', '.join(described[:5])}"
    else:
        hint = f"runs with checkpoints: {', '.join(runs[:5])}" if runs else ""
    raise cannot_read(directory, "checkpoint not found", hint)


# The names of step directories that Orbax writes.
_STEP = re.compile("0|[1-9][0-9]*")

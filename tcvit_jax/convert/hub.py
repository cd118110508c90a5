"""Files from the Hugging Face Hub. Code in a repository is never downloaded or executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tcvit_jax import schema
from tcvit_jax.convert.directory import (
    CONFIG,
    INDEX_SUFFIX,
    PROCESSOR,
    PROCESSORS,
    WEIGHT_FILES,
    check_file_name,
)
from tcvit_jax.convert.files import SUFFIXES
from tcvit_jax.convert.shards import MAX_INDEX
from tcvit_jax.errors import cannot_read, first_line, out_of_range
from tcvit_jax.models import zoo

# A source with such a suffix is a file that is missing, and no repository.
_FILE_SUFFIXES = (*SUFFIXES, ".json")
_NO_NETWORK = "without a network, pass the path of a file or directory"


def repository(source: str) -> str | None:
    """Return the repository that a source names, or None for a path.

    Args:
        source: `hf-hub:ORG/NAME`, `ORG/NAME`, or a path. An existing path takes precedence over `ORG/NAME`, as does a
            path in an existing directory `ORG` unless that is `timm`.

    Raises:
        InputError: `hf-hub:` is not followed by the name of a repository.
    """
    match = re.fullmatch(r"(hf[-_]hub:)?([\w-][\w.-]*)/([\w-][\w.-]*)", source, re.ASCII)
    if match is None or match[1] is None:
        if re.match(r"hf[-_]hub:", source):
            raise out_of_range("source", source, "hf-hub:ORG/NAME")
        if match is None or Path(source).exists() or source.lower().endswith(_FILE_SUFFIXES):
            return None
        if match[2] != "timm" and Path(match[2]).exists():
            return None
    repo = f"{match[2]}/{match[3]}"
    return zoo.repository(match[3]) if match[2] == "timm" and match[3] in zoo.ZOO else repo


def is_published(repo: str) -> bool:
    """Return whether a repository has the weights of a model of the registry, whose name says the architecture."""
    return any(zoo.repository(name) == repo for name in zoo.ZOO)


def download(repo: str) -> Path:
    """Return the weight file of a repository, from the cache or the network.

    Raises:
        InputError: The repository or its weight file is not found, or the network is not available.
    """
    names = [name for name in WEIGHT_FILES if not name.endswith(INDEX_SUFFIX)]
    for name in names:
        if path := _download(repo, name):
            return path
    raise cannot_read(repo, "weight file not found", f"expected {' or '.join(names)}")


def download_directory(repo: str) -> Path:
    """Return the directory of a repository in the cache, with its configurations and weights.

    Only `config.json`, `preprocessor_config.json` or `processor_config.json`, and the weights are downloaded: the files
    of an index, or one file, as `.safetensors` if there are any.

    Args:
        repo: The repository, `ORG/NAME`.

    Raises:
        InputError: The repository, its configuration or its weights are not found, a file name in its index is invalid,
            or the network is not available.
    """
    config = _download(repo, CONFIG)
    if config is None:
        raise cannot_read(repo, f"{CONFIG} not found", "pass --model NAME or model=NAME, one of tc.list_models()")
    # The directory has the name of the commit, of which all files must be.
    folder = config.parent
    for name in (PROCESSOR, PROCESSORS):
        if _download(repo, name, folder.name):
            break
    for name in WEIGHT_FILES:
        path = _download(repo, name, folder.name)
        if path is not None and name.endswith(INDEX_SUFFIX):
            weight_map = schema.read_json(path, dict[str, Any], MAX_INDEX).get("weight_map")
            # `open_shards` reports an invalid index.
            files = set(weight_map.values()) if isinstance(weight_map, dict) else set[Any]()
            for file in sorted(map(str, files)):
                check_file_name(file, path)
                if _download(repo, file, folder.name) is None:
                    raise cannot_read(f"{repo}/{name}", f"{file} not found")
        if path is not None:
            return folder
    raise cannot_read(repo, "weights not found", f"expected {', '.join(WEIGHT_FILES)}")


def _download(repo: str, name: str, revision: str | None = None) -> Path | None:
    """Return a file of a repository, from the cache or the network, or None if the repository does not have it."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise cannot_read(repo, f"cannot download: {first_line(error)}", _NO_NETWORK) from error
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError as error:
        hint = "a private or gated one requires hf auth login"
        raise cannot_read(repo, "neither a path nor a repository of the Hugging Face Hub", hint) from error
    except Exception as error:  # raised by the hub client, the network or the system
        raise cannot_read(repo, f"cannot download: {first_line(error)}") from error

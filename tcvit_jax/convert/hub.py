"""Weights from the Hugging Face Hub, by timm name."""

from __future__ import annotations

import re
from pathlib import Path

from tcvit_jax.errors import cannot_read, first_line, invalid
from tcvit_jax.models import zoo

FILES = ("model.safetensors", "pytorch_model.bin")


def repository(source: str) -> str | None:
    """Return the repository that a source names, or None for a file.

    Args:
        source: `hf-hub:timm/NAME`, `timm/NAME`, or the path of a file. An existing file takes precedence over
            `timm/NAME`.

    Raises:
        InputError: The repository is not one of timm.
    """
    match = re.fullmatch(r"(hf[-_]hub:)?(timm/[\w.-]+)", source)
    if match and (match[1] or not Path(source).exists()):
        name = match[2].removeprefix("timm/")
        return zoo.repository(name) if name in zoo.ZOO else match[2]
    if re.match(r"hf[-_]hub:", source):
        raise invalid(source, "expected a repository of timm", "use hf-hub:timm/NAME")
    return None


def download(repo: str) -> Path:
    """Return the weight file of a repository, from the cache or the network.

    Raises:
        InputError: The repository or its weight file is not found, or the network is not available.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    not_found: Exception | None = None
    for name in FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name))
        except LocalEntryNotFoundError as error:
            raise cannot_read(
                repo, f"cannot download: {first_line(error)}", "without a network, pass the path of a file"
            ) from error
        except EntryNotFoundError as error:
            not_found = error
        except Exception as error:  # raised by the hub client, the network or the system
            raise cannot_read(repo, f"cannot download: {first_line(error)}") from error
    raise cannot_read(repo, "weight file not found", f"expected {' or '.join(FILES)}") from not_found

"""WeightFile from the Hugging Face Hub, by timm's names."""

from __future__ import annotations

import re
from pathlib import Path

from tcvit_jax.errors import InputError, first_line
from tcvit_jax.models import zoo

FILES = ("model.safetensors", "pytorch_model.bin")


def repository(source: str) -> str | None:
    """The repository that a source names, `hf-hub:timm/NAME` or `timm/NAME`; None for a file, which comes first.

    Raises:
        InputError: a repository of somebody else.
    """
    found = re.fullmatch(r"(hf[-_]hub:)?(timm/[\w.-]+)", source)
    if found and (found[1] or not Path(source).exists()):
        name = found[2].removeprefix("timm/")
        return zoo.repository(name) if name in zoo.ZOO else found[2]
    if re.match(r"hf[-_]hub:", source):
        raise InputError(f"cannot use {source!r}: the hub's weights that fit are those of timm, hf-hub:timm/NAME")
    return None


def download(repo: str) -> Path:
    """The weight file of a repository, from the cache or the network.

    Raises:
        InputError: no such repository, no weights in it, or no network.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: Exception | None = None
    for name in FILES:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, name))
        except LocalEntryNotFoundError as error:
            raise InputError(
                f"cannot download {repo!r}: {first_line(error)} (without a network, give the path of a file)"
            ) from error
        except EntryNotFoundError as error:
            missing = error
        except Exception as error:  # the hub's, the network's or the system's
            raise InputError(f"cannot download {repo!r}: {first_line(error)}") from error
    raise InputError(f"{repo!r} holds none of {', '.join(FILES)}") from missing

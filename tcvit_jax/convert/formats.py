"""Formats of weight files: what their names have in common, whatever the architecture.

Names and layouts of the individual tensors are in the parameter table of the architecture (`models/tables.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tcvit_jax.models import tables


@dataclass(frozen=True)
class Format:
    """A convention for the names of tensors.

    Attributes:
        name: key of the format in the parameter tables, and its name in error messages.
        ignored: patterns of names that hold no weight.
        aliases: patterns in names of other writers, and their replacements.
        resampling: method and antialiasing for position embeddings on another grid, as timm does for such files.
    """

    name: str
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    resampling: tuple[str, bool] = ("cubic", True)

    def canonical_names(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield every name that is not ignored as `(name in the parameter table, name in the file)`."""
        for name in names:
            known = name
            for pattern, replacement in self.aliases:
                known = re.sub(pattern, replacement, known)
            if not any(re.fullmatch(pattern, known) for pattern in self.ignored):
                yield known, name


TIMM = Format(
    tables.TIMM,
    # Counters of batch norm, and a token that DINOv2 used only in training.
    ignored=(r".*\.num_batches_tracked", "mask_token"),
    # Prefixes of parallel training and compilation, and the names of DeiT-III's authors.
    aliases=((r"^(module\.|_orig_mod\.)+", ""), (r"\.gamma_([12])$", r".ls\1.gamma")),
)
AUGREG = Format(tables.AUGREG, resampling=("linear", False))


def format_of(names: Collection[str]) -> Format:
    """Return the format that most of these names follow."""
    return AUGREG if 2 * sum("/" in name for name in names) > len(names) else TIMM

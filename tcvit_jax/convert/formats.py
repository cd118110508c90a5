"""Weight file formats: naming conventions that do not depend on the architecture.

Names and layouts of the individual tensors are in the parameter table of the architecture (`models/tables.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tcvit_jax.models import tables


@dataclass(frozen=True)
class Format:
    """A naming convention for the tensors of a weight file.

    Attributes:
        name: Key of the format in the parameter tables, and its name in error messages.
        ignored: Patterns of names of tensors that are not weights.
        aliases: Patterns in names that other programs write, and their replacements.
        resampling: Method and antialiasing for resampled position embeddings, as timm uses for this format.
    """

    name: str
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    resampling: tuple[str, bool] = ("cubic", True)

    def canonical_names(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield the canonical name and the original name of each tensor that is not ignored.

        Args:
            names: Names in the file.

        Yields:
            `(name in the parameter table, name in the file)`.
        """
        for name in names:
            canonical_name = name
            for pattern, replacement in self.aliases:
                canonical_name = re.sub(pattern, replacement, canonical_name)
            if not any(re.fullmatch(pattern, canonical_name) for pattern in self.ignored):
                yield canonical_name, name


TIMM = Format(
    tables.TIMM,
    # Batch norm counters, and a token that DINOv2 uses only in training.
    ignored=(r".*\.num_batches_tracked", "mask_token"),
    # Prefixes of parallel training and compilation, and the LayerScale names of the official DeiT-III code.
    aliases=((r"^(module\.|_orig_mod\.)+", ""), (r"\.gamma_([12])$", r".ls\1.gamma")),
)
AUGREG = Format(tables.AUGREG, resampling=("linear", False))


def format_of(names: Collection[str]) -> Format:
    """Return the format that the majority of the names belongs to."""
    return AUGREG if 2 * sum("/" in name for name in names) > len(names) else TIMM

"""`--max-pairs`: the first pairs of a source, for the tasks that can read pairs."""

from __future__ import annotations

from tcvit_jax.data import PairSource, Source
from tcvit_jax.errors import out_of_range, requires


def check_max_pairs(max_pairs: int) -> None:
    """Check the number of pairs to read.

    Raises:
        InputError: It is negative.
    """
    if max_pairs < 0:
        raise out_of_range("--max-pairs", max_pairs, ">= 0", "0 reads all pairs")


def first_pairs(source: Source, max_pairs: int, option: str) -> Source:
    """Return the first pairs of a source by name.

    Args:
        source: The source.
        max_pairs: The number of pairs; 0 for all.
        option: What requires pairs, for error messages.

    Raises:
        InputError: The source has no pairs, or fewer than `max_pairs`.
    """
    if not isinstance(source, PairSource):
        raise requires(option, "pairs of images", "set --config.data.name=pairs")
    return source.first(max_pairs) if max_pairs else source

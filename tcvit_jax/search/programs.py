"""Compiled programs of a search: stored in its directory, so that none is compiled twice, and not kept in memory."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_KEY = "jax_compilation_cache_dir"


@contextmanager
def stored_programs(directory: Path) -> Generator[None]:
    """Store the programs that are compiled in the block, unless JAX already has a persistent compilation cache.

    The directory is removed at the end of the block, but not after an exception, so that a resumed search reads it.

    Args:
        directory: The directory of the programs.

    Yields:
        None.
    """
    is_ours = not getattr(jax.config, _KEY)
    if is_ours:
        _set_directory(str(directory.absolute()))
    try:
        yield
    finally:
        if is_ours:
            _set_directory(None)
    shutil.rmtree(directory, ignore_errors=True)


def _set_directory(directory: str | None) -> None:
    jax.config.update(_KEY, directory)
    # JAX opens its cache once, at the first compilation of the process.
    compilation_cache.reset_cache()


def release_programs() -> None:
    """Remove all compiled programs from memory. Each candidate has one, and a search may have thousands."""
    jax.clear_caches()

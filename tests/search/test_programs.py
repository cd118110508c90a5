"""Tests of the compiled programs of a search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.search.programs import release_programs, stored_programs

KEYS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def without_cache():
    """Remove the compilation cache of the test session, and store programs however short their compilation."""
    values = {key: getattr(jax.config, key) for key in KEYS}
    for key, value in zip(KEYS, (None, 0), strict=True):
        jax.config.update(key, value)
    yield
    for key, value in values.items():
        jax.config.update(key, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def compile_once(directory, factor):
    """Compile a program, and return the names of the stored ones."""

    def scaled_sine(x):
        return factor * jnp.sin(x)

    jax.jit(scaled_sine)(np.ones(3, np.float32)).block_until_ready()
    release_programs()
    return {path.name for path in directory.glob("jit_scaled_sine-*-cache")}


def test_programs_are_stored_once_and_removed_at_the_end(without_cache, tmp_path):
    directory = tmp_path / "compiled"
    stored = set()

    def interrupt():
        with stored_programs(directory):
            stored.update(compile_once(directory, 2.0))
            raise ValueError("interrupted")

    with pytest.raises(ValueError, match="interrupted"):
        interrupt()
    assert directory.exists() and jax.config.jax_compilation_cache_dir is None
    with stored_programs(directory):
        assert compile_once(directory, 2.0) == stored and len(stored) == 1
        assert len(compile_once(directory, 3.0)) == 2
    assert not directory.exists()


def test_cache_of_the_environment_is_not_changed(without_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with stored_programs(tmp_path / "compiled"):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")

"""The mesh and what is placed on it."""

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import sharding


def test_a_batch_is_cut_and_parameters_are_whole():
    mesh = sharding.data_mesh()
    batch = sharding.place({"image": np.arange(16.0)}, mesh)["image"]
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2,)] * 8
    np.testing.assert_array_equal(batch, np.arange(16.0))
    whole = sharding.place_whole({"w": np.ones(3)}, mesh)["w"]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(3,)] * 8


@pytest.mark.parametrize(("batch", "nearest"), [(12, 16), (9, 8), (3, 8), (0, 8), (-8, 8)])
def test_an_uneven_batch_is_refused_with_the_nearest_even_one(batch, nearest):
    with pytest.raises(tc.InputError) as caught:
        sharding.check_divisible("batch_size", batch, sharding.data_mesh())
    assert str(caught.value) == f"batch_size={batch} cannot be shared by 8 devices: use {nearest}"


def test_an_even_batch_passes():
    sharding.check_divisible("batch_size", 24, sharding.data_mesh())

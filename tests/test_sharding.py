"""The device mesh, and the sharding of batches and parameters."""

import jax
import numpy as np
import optax
import pytest

import tcvit_jax as tc
from tcvit_jax import models, sharding


def test_batch_is_sharded_and_parameters_are_replicated():
    mesh = sharding.data_mesh()
    batch = sharding.place({"image": np.arange(16.0)}, mesh)["image"]
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2,)] * 8
    np.testing.assert_array_equal(batch, np.arange(16.0))
    replicated = sharding.place_replicated({"w": np.ones(3)}, mesh)["w"]
    assert [shard.data.shape for shard in replicated.addressable_shards] == [(3,)] * 8


@pytest.mark.parametrize(("batch", "nearest"), [(12, 16), (9, 8), (3, 8), (0, 8), (-8, 8)])
def test_uneven_batch_size_suggests_the_nearest_even_one(batch, nearest):
    with pytest.raises(tc.InputError) as error:
        sharding.check_divisible("batch_size", batch, sharding.data_mesh())
    assert str(error.value) == f"batch_size={batch}: must be a positive multiple of 8 (8 devices); use {nearest}"


def test_even_batch_size_is_valid():
    sharding.check_divisible("batch_size", 24, sharding.data_mesh())


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (0, 3, "mesh.model=3: must be a divisor of 8, the number of devices; use 2"),
        (0, 16, "mesh.model=16: must be a divisor of 8, the number of devices; use 8"),
        (0, 0, "mesh.model=0: must be a divisor of 8, the number of devices; use 1"),
        (3, 2, "mesh.data=3: must be 4, for 8 devices and mesh.model=2; use 0 for all remaining devices"),
    ],
)
def test_mesh_must_match_the_devices(data, model, message):
    with pytest.raises(tc.InputError) as error:
        sharding.make_mesh(data, model)
    assert str(error.value) == message


def test_table_shards_matrices_and_replicates_vectors():
    model = tc.create_model("deit_tiny_patch16_224", depth=4)
    params, table = models.parameter_shapes(model), model.PARAMETERS
    mesh = sharding.make_mesh(0, 4)
    state = optax.ScaleByScheduleState(np.zeros(())), optax.TraceState(params)
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("1/"): tuple(leaf_sharding.spec)
        for path, leaf_sharding in jax.tree.leaves_with_path(sharding.shardings(state, mesh, table))
    }
    assert specs["trace/blocks_3/attn/qkv/kernel"] == (None, "model")
    assert specs["trace/patch_embed/kernel"] == (None, None, None, "model")
    assert specs["trace/head/kernel"] == ("model", None)
    assert specs["trace/pos_embed"] == (None, None, "model")
    assert (
        specs["trace/cls_token"]
        == specs["trace/norm/scale"]
        == specs["trace/blocks_0/mlp/fc1/bias"]
        == specs["0/count"]
        == ()
    )
    sharded_size = sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(params)
        if specs[f"trace/{jax.tree_util.keystr(path, simple=True, separator='/')}"]
    )
    assert sharded_size / sum(leaf.size for leaf in jax.tree.leaves(params)) > 0.99
    assert {tuple(p.spec) for p in jax.tree.leaves(sharding.shardings(state, sharding.make_mesh(), table))} == {()}


def test_parameters_that_cannot_be_sharded_are_named():
    model = tc.create_model("deit_tiny_patch16_224", embed_dim=36, depth=2, num_heads=3)
    with pytest.raises(tc.InputError) as error:
        sharding.check_shardable(models.parameter_shapes(model), sharding.make_mesh(0, 8), model.PARAMETERS)
    assert (
        str(error.value)
        == "mesh.model=8: must be a divisor of 36, the size of axis 1 of blocks_0/attn/proj/kernel; use 6"
    )


def test_sharded_parameters_can_be_replicated_again():
    mesh = sharding.make_mesh(2, 4)
    tree = {"head": {"kernel": np.arange(32.0).reshape(8, 4)}}
    sharded = jax.device_put(tree, sharding.shardings(tree, mesh, models.ViT.PARAMETERS))
    assert sharded["head"]["kernel"].addressable_shards[0].data.shape == (2, 4)
    replicated = sharding.place_replicated(sharded, mesh)
    assert replicated["head"]["kernel"].sharding.is_fully_replicated
    np.testing.assert_array_equal(replicated["head"]["kernel"], tree["head"]["kernel"])


def test_rows_of_each_device_must_be_a_multiple():
    with pytest.raises(tc.InputError) as error:
        sharding.check_divisible("batch_size", 24, sharding.data_mesh(), 4)
    assert str(error.value) == "batch_size=24: must be a positive multiple of 32 (8 devices x 4 rows); use 32"

"""The mesh and what is placed on it."""

import jax
import numpy as np
import optax
import pytest

import tcvit_jax as tc
from tcvit_jax import models, sharding


def test_a_batch_is_cut_and_parameters_are_whole():
    mesh = sharding.data_mesh()
    batch = sharding.place({"image": np.arange(16.0)}, mesh)["image"]
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2,)] * 8
    np.testing.assert_array_equal(batch, np.arange(16.0))
    whole = sharding.place_replicated({"w": np.ones(3)}, mesh)["w"]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(3,)] * 8


@pytest.mark.parametrize(("batch", "nearest"), [(12, 16), (9, 8), (3, 8), (0, 8), (-8, 8)])
def test_an_uneven_batch_is_refused_with_the_nearest_even_one(batch, nearest):
    with pytest.raises(tc.InputError) as caught:
        sharding.check_divisible("batch_size", batch, sharding.data_mesh())
    assert str(caught.value) == f"batch_size={batch} cannot be shared by 8 devices: use {nearest}"


def test_an_even_batch_passes():
    sharding.check_divisible("batch_size", 24, sharding.data_mesh())


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (0, 3, "mesh.model=3 does not divide 8 devices: use 2"),
        (0, 16, "mesh.model=16 does not divide 8 devices: use 8"),
        (0, 0, "mesh.model=0 does not divide 8 devices: use 1"),
        (3, 2, "mesh.data=3 times mesh.model=2 is not 8 devices: use mesh.data=4, or 0 for all that are left"),
    ],
)
def test_impossible_meshes(data, model, message):
    with pytest.raises(tc.InputError) as caught:
        sharding.make_mesh(data, model)
    assert str(caught.value) == message


def test_the_table_shares_matrices_and_leaves_vectors_whole():
    model = tc.create_model("deit_tiny_patch16_224", depth=4)
    params, table = models.parameter_shapes(model), model.PARAMETERS
    mesh = sharding.make_mesh(0, 4)
    state = optax.ScaleByScheduleState(np.zeros(())), optax.TraceState(params)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("1/"): tuple(placed.spec)
        for path, placed in jax.tree.leaves_with_path(sharding.shardings(state, mesh, table))
    }
    assert found["trace/blocks_3/attn/qkv/kernel"] == (None, "model")
    assert found["trace/patch_embed/kernel"] == (None, None, None, "model")
    assert found["trace/head/kernel"] == ("model", None)
    assert found["trace/pos_embed"] == (None, None, "model")
    assert (
        found["trace/cls_token"]
        == found["trace/norm/scale"]
        == found["trace/blocks_0/mlp/fc1/bias"]
        == found["0/count"]
        == ()
    )
    shared = sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(params)
        if found[f"trace/{jax.tree_util.keystr(path, simple=True, separator='/')}"]
    )
    assert shared / sum(leaf.size for leaf in jax.tree.leaves(params)) > 0.99
    assert {tuple(p.spec) for p in jax.tree.leaves(sharding.shardings(state, sharding.make_mesh(), table))} == {()}


def test_parameters_that_cannot_be_shared_are_named():
    model = tc.create_model("deit_tiny_patch16_224", embed_dim=36, depth=2, num_heads=3)
    with pytest.raises(tc.InputError) as caught:
        sharding.check_shardable(models.parameter_shapes(model), sharding.make_mesh(0, 8), model.PARAMETERS)
    assert str(caught.value) == "mesh.model=8 cannot share the 36 columns of blocks_0/attn/proj/kernel: use 6"


def test_what_is_shared_is_whole_again():
    mesh = sharding.make_mesh(2, 4)
    tree = {"head": {"kernel": np.arange(32.0).reshape(8, 4)}}
    shared = jax.device_put(tree, sharding.shardings(tree, mesh, models.ViT.PARAMETERS))
    assert shared["head"]["kernel"].addressable_shards[0].data.shape == (2, 4)
    whole = sharding.place_replicated(shared, mesh)
    assert whole["head"]["kernel"].sharding.is_fully_replicated
    np.testing.assert_array_equal(whole["head"]["kernel"], tree["head"]["kernel"])


def test_pairs_and_micro_batches_have_to_fit():
    with pytest.raises(tc.InputError) as caught:
        sharding.check_divisible("batch_size", 24, sharding.data_mesh(), 4)
    assert str(caught.value) == "batch_size=24 cannot be shared by 8 devices, 4 rows at a time: use 32"

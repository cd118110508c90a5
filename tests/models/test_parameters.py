"""Parameter tables: one row per variable, and its effect on optimizer, sharding and converter."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.models import layouts, tables, zoo
from tcvit_jax.models.parameters import Parameter, ParameterTable, Tensors, variable_path
from tcvit_jax.training import optimizer
from tcvit_jax.training.step import make_init

DEPTH = 2
SMALL = {"depth": DEPTH, "embed_dim": 24, "num_heads": 3, "img_size": (8, 8), "patch_size": 4, "num_classes": 5}
# For every structure of variables in the zoo, and for the three in `OVERRIDES`: the paths, and for each path the weight
# decay, the layer for `DEPTH` blocks, the mesh axis, and the tensors of weight files. Recorded before parameter tables
# existed, when optimizer, sharding and converter had separate rules; SigLIP, DINOv3 and EVA-02 when they were added.
RECORD = json.loads((Path(__file__).parent.parent / "golden" / "parameters.json").read_text())
OVERRIDES = {
    "vit_small_patch16_224, qk_norm": {"qk_norm": True},
    "vit_small_patch16_224, everything": {
        "qk_norm": True, "distilled": True, "reg_tokens": 2, "pre_norm": True, "init_values": 1e-5,
    },
    "lvvit_s, everything": {"qkv_bias": True, "qk_norm": True, "init_values": 1e-5, "reg_tokens": 2},
}  # fmt: skip


def small(key):
    """Return a small model with the variables of a structure in `RECORD`."""
    name = key.partition(",")[0]
    classes = 0 if zoo.get_entry(name).overrides.get("num_classes") == 0 else 5
    return tc.create_model(name, **{**SMALL, "num_classes": classes, **OVERRIDES.get(key, {})})


def shapes_of(model):
    return traverse_util.flatten_dict(models.variable_shapes(model), sep="/")


def recorded_outcomes(key):
    """Return the recorded outcome of every variable of a structure."""
    return {path: RECORD["outcomes"][path] for path in RECORD["structures"][key]}


def test_every_zoo_structure_is_recorded():
    structures = {tuple(sorted(shapes_of(small(name)))) for name in zoo.ZOO}
    assert structures <= {tuple(paths) for paths in RECORD["structures"].values()}


@pytest.mark.parametrize("key", RECORD["structures"])
def test_every_variable_has_one_row_with_recorded_tensors(key):
    model = small(key)
    table, shapes = model.PARAMETERS, shapes_of(model)
    assert sorted(shapes) == RECORD["structures"][key]
    for path, expected in recorded_outcomes(key).items():
        row = table.row(path)
        assert [other.path for other in table.rows].count(row.path) == 1
        assert {"classifier": "head", "positions": "positions"}.get(row.role, "") == expected["files"]["timm"]["kind"]
        for file_format in (tables.TIMM, tables.AUGREG):
            tensors = table.tensors(path, file_format)
            assert (tensors is None) == (file_format not in expected["files"]), path
            if tensors is not None:
                assert list(tensors.names) == expected["files"][file_format]["names"]
                assert tensors.layout is getattr(layouts, expected["files"][file_format]["layout"])


@pytest.mark.parametrize("key", RECORD["structures"])
def test_optimizer_and_sharding_match_record(key):
    model = small(key)
    table, shapes = model.PARAMETERS, models.variable_shapes(model)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["params"])
    mask = traverse_util.flatten_dict(optimizer.decay_mask(params, table), sep="/")
    scaled, _ = optimizer.scale_by_layer(0.5, table, DEPTH).update(params, optax.EmptyState())
    scales = {path: float(leaf.flat[0]) for path, leaf in traverse_util.flatten_dict(scaled, sep="/").items()}
    specs = traverse_util.flatten_dict(sharding.specs(shapes, sharding.make_mesh(0, 4), table), sep="/")
    for path, expected in recorded_outcomes(key).items():
        axis = expected["axis"]
        spec = () if axis is None else tuple("model" if i == axis else None for i in range(expected["ndim"]))
        assert tuple(specs[path]) == spec, path
        collection, _, name = path.partition("/")
        if collection == "params":
            assert mask[name] == expected["decays"], path
            assert scales[name] == 0.5 ** (DEPTH + 1 - expected["layer"]), path


@pytest.mark.parametrize("key", ["deit_tiny_patch16_224.fb_in1k", "lvvit_s, everything"])
def test_training_state_is_sharded_like_parameters(key):
    """Averages and Adam's moments have the sharding of their parameters."""
    model, mesh = small(key), sharding.make_mesh(0, 4)
    table = model.PARAMETERS
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda count: 1e-3), optax.trace(0.9))
    state = jax.eval_shape(make_init(model, tx, 0))
    expected = sharding.specs(state.variables, mesh, table)
    specs = sharding.specs(state, mesh, table)
    assert specs.ema == specs.variables == expected
    adam = specs.opt_state[1][0]
    assert adam.mu == adam.nu == specs.opt_state[2].trace == expected["params"]
    assert tuple(expected["params"]["head"]["kernel"]) == ("model", None)
    assert specs.step == adam.count == jax.sharding.PartitionSpec()


UNKNOWN = {"blocks_0": {"attn": {"gate": {"kernel": np.ones((4, 4), np.float32)}}}}
MESSAGE = "^parameter 'blocks_0/attn/gate/kernel': not found in the ViT parameter table; add a row$"


@pytest.mark.parametrize(
    "use",
    [
        lambda table: optimizer.decay_mask(UNKNOWN, table),
        lambda table: optimizer.scale_by_layer(0.5, table, 2).update(UNKNOWN, optax.EmptyState()),
        lambda table: sharding.specs(UNKNOWN, sharding.make_mesh(), table),
        lambda table: sharding.shardings(optax.adamw(1e-3).init(UNKNOWN), sharding.make_mesh(0, 4), table),
        lambda table: sharding.check_shardable(UNKNOWN, sharding.make_mesh(0, 4), table),
    ],
    ids=["weight decay", "layer decay", "specs", "optimizer state", "check_shardable"],
)
def test_parameter_without_row_is_rejected(use):
    with pytest.raises(tc.InputError, match=MESSAGE):
        use(tables.VIT)


class Prompted(models.ViT):
    """An architecture with an additional token, which has no row."""

    def setup(self):
        super().setup()
        self.prompt = self.param("prompt", jax.nn.initializers.zeros, (1, 4, self.embed_dim))


def prompted_model(*rows):
    """Return a small `Prompted` model whose parameter table adds `rows` to the one of ViT."""
    architecture = type("Prompted", (Prompted,), {"PARAMETERS": ParameterTable("Prompted", (*tables.VIT.rows, *rows))})
    return architecture("prompted", **SMALL)


PROMPT = Parameter("prompt", "token", "embedding", files={tables.TIMM: Tensors(("prompt.tokens",))})


def test_added_row_applies_to_converter_optimizer_and_sharding():
    model = prompted_model(PROMPT)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.uniform(1, 2, leaf.shape).astype(np.float32), models.parameter_shapes(model))
    tensors = tc.convert.to_torch({"params": params}, model)
    assert tensors["prompt.tokens"].shape == (1, 4, SMALL["embed_dim"])
    variables = tc.convert.from_torch(tensors, model)
    jax.tree.map(np.testing.assert_array_equal, variables, {"params": params})
    assert optimizer.decay_mask(params, model.PARAMETERS)["prompt"] is False
    scaled, _ = optimizer.scale_by_layer(0.5, model.PARAMETERS, model.depth).update(params, optax.EmptyState())
    np.testing.assert_array_equal(scaled["prompt"], params["prompt"] * 0.5 ** (model.depth + 1))
    assert sharding.specs(params, sharding.make_mesh(0, 4), model.PARAMETERS)["prompt"] == jax.sharding.PartitionSpec()


def test_converter_rejects_parameter_without_row():
    model = prompted_model()
    message = "^parameter 'params/prompt': not found in the Prompted parameter table; add a row$"
    with pytest.raises(tc.InputError, match=message):
        tc.convert.from_torch({"cls_token": np.zeros(1)}, model)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), models.variable_shapes(model))
    with pytest.raises(tc.InputError, match=message):
        tc.convert.to_torch(variables, model)


def test_parameter_without_tensor_cannot_be_exported():
    model = prompted_model(Parameter("prompt", "token", "embedding"))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), models.variable_shapes(model))
    with pytest.raises(tc.InputError, match="^variables of prompted: params.prompt: cannot be stored in timm files$"):
        tc.convert.to_torch(variables, model)


@pytest.mark.parametrize(
    "path",
    [
        "decoder/head/kernel", "head/kernel/scale", "params/patch_embed/bn1/mean", "batch_stats/head/kernel",
        "blocks_x/norm1/scale", "blocks_{block}/norm1/scale/blocks_0", "patch_embed/conv4/kernel", "",
    ],
)  # fmt: skip
def test_path_must_match_row_and_collection_exactly(path):
    with pytest.raises(
        tc.InputError, match=f"^parameter '{path}': not found in the LV-ViT parameter table; add a row$"
    ):
        tables.LVVIT.row(path)


def test_leaf_outside_of_dictionaries_is_rejected():
    state = optax.TraceState(trace=[np.ones(3)])
    with pytest.raises(tc.InputError, match="^parameter 'trace/0': not found in the ViT parameter table; add a row$"):
        sharding.specs(state, sharding.make_mesh(), tables.VIT)


def test_variable_path_in_larger_tree():
    inner = {"params": {"norm": {"scale": 0}}}
    tree = optax.TraceState(trace=({"teacher": inner}, inner["params"], inner))
    paths = [variable_path(path) for path, _ in jax.tree.leaves_with_path(tree)]
    assert paths == ["params/norm/scale", "norm/scale", "params/norm/scale"]


def test_duplicate_rows_are_rejected():
    row = Parameter("norm/scale", "norm", "head")
    with pytest.raises(ValueError, match="Toy parameter table: duplicate rows for norm/scale"):
        ParameterTable("Toy", (row, row))


def test_lvvit_table_extends_vit_table():
    assert tables.LVVIT.rows[: len(tables.VIT.rows)] == tables.VIT.rows
    assert tables.VIT.classifier_tensors("timm") == {
        f"{head}.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")
    }
    assert tables.LVVIT.classifier_tensors("timm") - tables.VIT.classifier_tensors("timm") == {
        "aux_head.weight", "aux_head.bias",
    }  # fmt: skip

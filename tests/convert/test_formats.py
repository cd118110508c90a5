"""Weight file formats: names and layouts."""

import jax
import numpy as np
import pytest
from flax import traverse_util

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.convert.formats import AUGREG, TIMM, format_of
from tcvit_jax.convert.mapping import convert
from tcvit_jax.models.layouts import CONV, HEADS_OUT, LINEAR, QKV_BIAS, QKV_KERNEL, SAME
from tests import golden
from tests.convert import cases


def names_of(model, file_format):
    paths = traverse_util.flatten_dict(models.variable_shapes(model), sep="/")
    return [name for path in paths for name in model.PARAMETERS.tensors(path, file_format.name).names]


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_timm_names_equal_parameter_table(family):
    assert sorted(names_of(cases.model(family), TIMM)) == sorted(cases.weights(family))


def test_augreg_names_equal_parameter_table():
    assert sorted(names_of(cases.model("deit"), AUGREG)) == sorted(cases.augreg(cases.weights(), 3))


@pytest.mark.parametrize(("layout", "shape"), [(SAME, (5,)), (LINEAR, (3, 5)), (CONV, (2, 3, 4, 5))])
def test_dump_inverts_load(layout, shape):
    (tensor_shape,) = layout.shapes(shape, 1)
    tensor = np.random.default_rng(0).standard_normal(tensor_shape)
    array = layout.load([tensor], shape)
    assert array.shape == shape
    np.testing.assert_array_equal(layout.dump(array), tensor)


def test_layouts_with_head_axis():
    rng = np.random.default_rng(0)
    kernels = [rng.standard_normal((6, 2, 3)) for _ in range(3)]
    assert QKV_KERNEL.shapes((6, 18), 2) == [(6, 2, 3)] * 3
    qkv_kernel = QKV_KERNEL.load(kernels, (6, 18))
    x = rng.standard_normal(6)
    for index, kernel in enumerate(kernels):
        expected = np.einsum("w,whd->hd", x, kernel)
        np.testing.assert_allclose((x @ qkv_kernel).reshape(3, 2, 3)[index], expected)
    biases = [rng.standard_normal((2, 3)) for _ in range(3)]
    assert QKV_BIAS.shapes((18,), 2) == [(2, 3)] * 3
    np.testing.assert_array_equal(QKV_BIAS.load(biases, (18,)).reshape(3, 2, 3), np.stack(biases))
    out = rng.standard_normal((2, 3, 6))
    assert HEADS_OUT.shapes((6, 6), 2) == [(2, 3, 6)]
    values = rng.standard_normal((2, 3))
    np.testing.assert_allclose(values.reshape(-1) @ HEADS_OUT.load([out], (6, 6)), np.einsum("hd,hdw->w", values, out))


def test_format_is_inferred_from_names():
    assert format_of(["cls_token", "head.weight"]) is TIMM
    assert format_of(list(cases.augreg(cases.weights(), 3))) is AUGREG
    # The majority of the names decides.
    assert format_of([*cases.weights(), "a/b"]) is TIMM
    assert format_of([]) is TIMM


def test_aliases_and_ignored_names():
    names = [
        "module.blocks.0.gamma_1",
        "module.mask_token",
        "patch_embed.bn1.num_batches_tracked",
        "module.cls_token",
    ]
    sources = dict(TIMM.sources(names, 1, "module."))
    assert {name: source.names for name, source in sources.items()} == {
        "blocks.0.ls1.gamma": (names[0],),
        "cls_token": (names[3],),
    }


@pytest.mark.parametrize("case", golden.read("transformers")[0]["cases"], ids=lambda case: case["name"])
def test_files_of_transformers_give_its_outputs(case):
    """Outputs are logits, or the features of the class token for models without a classifier."""
    expected = golden.read("transformers")[1][f"{case['name']}/output"]
    model = tc.create_model(case["model"], **case["overrides"])
    tensors = golden.state_dict(case["shapes"], case["seed"])
    variables = tc.convert.from_torch(tensors, model)
    images = golden.images(case["batch"], model.img_size, case["seed"])
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
    # The tensors of the caller are not changed.
    for name, tensor in golden.state_dict(case["shapes"], case["seed"]).items():
        np.testing.assert_array_equal(tensors[name], tensor)


def assert_same_variables(tensors, expected, model, **tolerance):
    conversion = convert(tensors, model)
    jax.tree.map(
        lambda actual, value: np.testing.assert_allclose(actual, value, **{"rtol": 0, "atol": 0, **tolerance}),
        conversion.variables, tc.convert.from_torch(expected, model),
    )  # fmt: skip
    return conversion


@pytest.mark.parametrize("family", ["dinov2_like", "reg4"])
def test_official_names_of_dinov2(family):
    tensors = cases.dinov2(cases.weights(family))
    conversion = assert_same_variables(tensors, cases.weights(family), cases.model(family), atol=1e-7)
    assert conversion.ignored == ("mask_token",)
    note = ("pos_embed: positions of prefix tokens that were added to the tokens: 1",)
    assert conversion.notes == (note if family == "reg4" else ())


def test_scenic_and_big_vision_give_the_variables_of_augreg():
    augreg, model = cases.augreg(cases.weights(), 3), cases.model("deit")
    assert_same_variables(cases.scenic(augreg), augreg, model)
    optimizer = {"opt/0/mu/head/kernel": np.zeros(1), "opt/count": np.zeros(()), "chrono/accum_step": np.zeros(())}
    for is_stacked in (False, True):
        plain = cases.big_vision(augreg, is_stacked)
        for prefix, others in (
            ("", {}),
            ("params/", {}),
            ("params/", optimizer),
            ("opt/target/", {"opt/state/step": 1}),
        ):
            tensors = {f"{prefix}{name}": tensor for name, tensor in plain.items()} | others
            conversion = convert(tensors, model)
            assert conversion.ignored == tuple(sorted(others))
            params, expected = conversion.variables["params"], convert(augreg, model).variables["params"]
            # The class token includes its position.
            position = expected["pos_embed"][:, :1]
            np.testing.assert_array_equal(params["cls_token"], expected["cls_token"] + position)
            np.testing.assert_array_equal(params["pos_embed"][:, 1:], expected["pos_embed"][:, 1:])
            assert not params["pos_embed"][:, 0].any()
            for name in set(params) - {"cls_token", "pos_embed"}:
                jax.tree.map(np.testing.assert_array_equal, params[name], expected[name])


def test_stacked_blocks_of_another_depth_are_rejected():
    name, overrides, _, _ = cases.case("deit")
    tensors = cases.big_vision(cases.augreg(cases.weights(), 3), is_stacked=True)
    for depth in (2, 4):
        with pytest.raises(tc.InputError, match=f"LayerNorm_0/bias: expected {depth} stacked blocks, got 3"):
            tc.convert.from_torch(tensors, tc.create_model(name, **{**overrides, "depth": depth}))


def test_image_encoder_of_open_clip():
    name, overrides, _, _ = cases.case("clip_pre_norm")
    model = tc.create_model(name, **{**overrides, "num_classes": 10})
    tensors = cases.weights("clip_pre_norm")
    tensors["head.bias"] = np.zeros_like(tensors["head.bias"])
    renamed = cases.open_clip(tensors)
    with pytest.raises(
        tc.InputError, match=r"; use prefix='visual.' \(--prefix visual.\) to read only the tensors of the"
    ):
        tc.convert.from_torch(renamed, model)
    image_encoder = {key.removeprefix("visual."): value for key, value in renamed.items() if key.startswith("visual.")}
    assert_same_variables(image_encoder, tensors, model)


@pytest.mark.parametrize("wrapper", ["module.", "model.", "backbone.", "module.backbone.", "_orig_mod.module.model."])
def test_wrapper_of_all_names_is_removed(wrapper):
    tensors = {f"{wrapper}{name}": tensor for name, tensor in cases.weights().items()}
    conversion = assert_same_variables(tensors, cases.weights(), cases.model("deit"))
    assert conversion.mapped == tuple(sorted(tensors))
    assert conversion.notes == (f"prefix {wrapper!r} was removed from names",)


def test_layer_in_front_of_the_classifier():
    """Old files have a layer that no model has here. It has no effect on a classifier of zeros."""
    for tensors, names in (
        (cases.weights(), ("pre_logits.fc.bias", "pre_logits.fc.weight")),
        (cases.augreg(cases.weights(), 3), ("pre_logits/bias", "pre_logits/kernel")),
    ):
        layer = dict.fromkeys(names, np.ones(48, np.float32))
        kernel = "head/kernel" if "head/kernel" in tensors else "head.weight"
        with pytest.raises(
            tc.InputError, match=f"{names[0]}: a layer that the model does not have; .*use new_head=True"
        ):
            convert(tensors | layer, cases.model("deit"))
        assert convert(tensors | layer, cases.model("deit"), new_head=True).replaced[-2:] == names
        conversion = convert(tensors | layer | {kernel: np.zeros_like(tensors[kernel])}, cases.model("deit"))
        assert conversion.ignored == names
        assert conversion.warnings


def test_incomplete_attention_of_transformers_is_rejected():
    meta, _ = golden.read("transformers")
    case = next(case for case in meta["cases"] if case["name"] == "deit")
    model = tc.create_model(case["model"], **case["overrides"])
    tensors = golden.state_dict(case["shapes"], case["seed"])
    del tensors["deit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(tc.InputError, match=r"blocks.1.attn.qkv.weight: expected shape \(144, 48\), got \(96, 48\)"):
        tc.convert.from_torch(tensors, model)

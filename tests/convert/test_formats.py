"""Weight file formats: names and layouts."""

import numpy as np
import pytest
from flax import traverse_util

from tcvit_jax import models
from tcvit_jax.convert.formats import AUGREG, TIMM, format_of
from tcvit_jax.models.layouts import CONV, HEADS_OUT, LINEAR, QKV_BIAS, QKV_KERNEL, SAME
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
        "mask_token",
        "patch_embed.bn1.num_batches_tracked",
        "_orig_mod.module.cls_token",
    ]
    assert dict(TIMM.canonical_names(names)) == {"blocks.0.ls1.gamma": names[0], "cls_token": names[3]}

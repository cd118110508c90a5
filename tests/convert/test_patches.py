"""Patch embeddings for other patch sizes and numbers of channels, kept dtypes, and the choice of resampling."""

import ml_dtypes
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.mapping import convert
from tcvit_jax.convert.patches import adapt_input_conv, resample_patch_embed
from tcvit_jax.ops.positions import resample_bicubic_torch, resample_positions
from tests.convert import cases
from tests.convert.cases import weights

NAME, OVERRIDES, _, _ = cases.case("deit")


def model(**overrides):
    return tc.create_model(NAME, **{**OVERRIDES, **overrides})


def message_of(tensors, target, **options):
    with pytest.raises(tc.InputError) as error:
        tc.convert.from_torch(tensors, target, **options)
    return str(error.value).removeprefix(f"weights for {NAME}: ")


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_are_added_or_repeated(channels):
    kernel = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    adapted = adapt_input_conv(kernel, channels)
    assert adapted.shape == (2, channels, 4, 4)
    if channels == 1:
        np.testing.assert_allclose(adapted[:, 0], kernel[:, 0] + kernel[:, 1] + kernel[:, 2], rtol=1e-5, atol=1e-6)
    for channel in range(channels if channels > 1 else 0):
        np.testing.assert_allclose(adapted[:, channel], kernel[:, channel % 3] * 3 / channels, rtol=1e-6)


def test_resampled_kernel_gives_the_features_of_resized_patches():
    """Enlarging a patch loses nothing, so the products with the new kernel are those with the kernel."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((5, 2, 4, 6)).astype(np.float32)
    patch = rng.standard_normal((1, 4 * 6, 1)).astype(np.float32)
    larger = np.asarray(resample_positions(patch, 0, (4, 6), (9, 7))).reshape(9, 7)
    resampled = resample_patch_embed(kernel, (9, 7))
    assert resampled.shape == (5, 2, 9, 7)
    np.testing.assert_allclose(
        (resampled * larger).sum((2, 3)), (kernel * patch.reshape(4, 6)).sum((2, 3)), rtol=0, atol=1e-4
    )
    assert resample_patch_embed(kernel, (4, 6)) is kernel


@pytest.mark.parametrize("changes", [{"patch_size": 16}, {"in_chans": 1}, {"patch_size": 4, "in_chans": 4}])
def test_patch_embedding_is_adapted_only_if_asked(changes):
    tensors, target = weights(), model(**changes)
    sizes = (48, target.in_chans, target.patch_size, target.patch_size)
    message = f"patch_embed.proj.weight: expected shape {sizes}, got (48, 3, 8, 8); use adapt_patch_embed=True "
    assert message_of(tensors, target) == f"{message}(--adapt-patch-embed) to adapt the kernel as timm does"
    conversion = convert(tensors, target, adapt_patch_embed=True)
    kernel = conversion.variables["params"]["patch_embed"]["kernel"]
    assert kernel.shape == (*sizes[2:], *sizes[1::-1])
    assert f"patch_embed.proj.weight: adapted from shape (48, 3, 8, 8) to {sizes}" in conversion.notes
    assert conversion.resampled == (("pos_embed",) if "patch_size" in changes else ())
    augreg = cases.augreg(tensors, 3)
    from_augreg = tc.convert.from_torch(augreg, target, adapt_patch_embed=True)
    np.testing.assert_array_equal(from_augreg["params"]["patch_embed"]["kernel"], kernel)


def test_kernels_that_cannot_be_adapted():
    tensors = weights()
    tensors["patch_embed.proj.weight"] = np.ones((48, 5, 8, 8), np.float32)
    for adapt in (False, True):
        assert message_of(tensors, model(), adapt_patch_embed=adapt) == (
            "patch_embed.proj.weight: expected shape (48, 3, 8, 8), got (48, 5, 8, 8)"
        )
    tensors["patch_embed.proj.weight"] = np.ones((48, 3, 65, 65), np.float32)
    message = message_of(tensors, model(), adapt_patch_embed=True)
    assert message.startswith("patch_embed.proj.weight: cannot be resampled, because patches are larger than 64x64")
    # A kernel of the expected shape is not changed.
    expected = tc.convert.from_torch(weights(), model())["params"]["patch_embed"]["kernel"]
    actual = tc.convert.from_torch(weights(), model(), adapt_patch_embed=True)["params"]["patch_embed"]["kernel"]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_half_precision_is_kept_if_asked(dtype):
    tensors = {name: value.astype(dtype) for name, value in weights().items()}
    tensors["norm.weight"] = weights()["norm.weight"]
    params = tc.convert.from_torch(tensors, model(img_size=96), keep_dtype=True)["params"]
    half = np.float32 if dtype == np.float64 else dtype
    for array in (params["pos_embed"], params["head"]["kernel"], params["blocks_0"]["attn"]["qkv"]["bias"]):
        assert array.dtype == half
    assert params["norm"]["scale"].dtype == np.float32
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["head.weight"].T)
    assert tc.convert.from_torch(tensors, model())["params"]["head"]["kernel"].dtype == np.float32


def test_resampling_of_the_source():
    tensors = weights()
    expected = resample_bicubic_torch(tensors["pos_embed"], 1, (8, 8), (12, 12))
    target = model(img_size=96)
    actual = tc.convert.from_torch(tensors, target, resampling=("cubic_torch", False))["params"]["pos_embed"]
    np.testing.assert_array_equal(actual, expected)
    assert np.abs(actual - tc.convert.from_torch(tensors, target)["params"]["pos_embed"]).max() > 1e-3

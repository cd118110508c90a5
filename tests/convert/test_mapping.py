"""Conversion between named tensors and variables, and the errors that list all problems."""

import re

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.mapping import convert
from tests.convert import cases
from tests.convert.cases import augreg, weights

MODEL = cases.model("deit")


def message_of(tensors, model=MODEL, **options):
    with pytest.raises(tc.InputError) as error:
        tc.convert.from_torch(tensors, model, **options)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"weights for {model.variant}: ")


def test_layouts():
    tensors = weights()
    params = tc.convert.from_torch(tensors, MODEL)["params"]
    np.testing.assert_array_equal(params["blocks_1"]["attn"]["qkv"]["kernel"], tensors["blocks.1.attn.qkv.weight"].T)
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"][2, 5, 1], tensors["patch_embed.proj.weight"][:, 1, 2, 5]
    )
    np.testing.assert_array_equal(params["norm"]["scale"], tensors["norm.weight"])


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_round_trip_is_bit_exact(family):
    tensors, model = weights(family), cases.model(family)
    conversion = convert(tensors, model)
    assert sorted(conversion.mapped) == sorted(tensors)
    assert not conversion.resampled + conversion.replaced + conversion.ignored
    exported = tc.convert.to_torch(conversion.variables, model)
    assert set(exported) == set(tensors)
    for name, value in tensors.items():
        assert exported[name].dtype == np.float32
        np.testing.assert_array_equal(exported[name], value)


def test_to_torch_rejects_variables_of_another_model():
    variables = tc.convert.from_torch(weights(), MODEL)
    with pytest.raises(
        tc.InputError, match=r"variables of vit_small_patch14_dinov2: params.blocks_\{0-2\}.ls1.gamma: not found; "
    ):
        tc.convert.to_torch(variables, cases.model("dinov2_like"))
    with pytest.raises(tc.InputError, match=r"params.head.kernel: expected shape \(48, 7\), got \(48, 10\)"):
        tc.convert.to_torch(variables, tc.create_model(MODEL.variant, **{**cases.case("deit")[1], "num_classes": 7}))


class Module:
    """Stands for a torch module, which has tensors but is not a mapping."""

    def state_dict(self):
        return {}


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (None, "state_dict: expected a mapping from names to arrays, got None"),
        ([1], "state_dict: expected a mapping from names to arrays, got a list"),
        (
            Module(),
            "state_dict: expected a mapping from names to arrays, got a tests.Module; pass its state_dict()",
        ),
        ({1: np.ones(3)}, "state_dict: expected names of type str, got an int"),
    ],
)
def test_from_torch_rejects_what_is_no_state_dict(state_dict, message):
    with pytest.raises(tc.InputError) as error:
        tc.convert.from_torch(state_dict, MODEL)
    assert str(error.value) == message


def test_to_torch_rejects_what_is_no_variables():
    with pytest.raises(tc.InputError, match="^variables: expected a mapping from names to arrays, got None$"):
        tc.convert.to_torch(None, MODEL)
    with pytest.raises(tc.InputError, match=r"^variables of \w+: params: expected an array, got a list$"):
        tc.convert.to_torch({"params": [1]}, MODEL)
    with pytest.raises(tc.InputError, match=r"^variables of \w+: params.1: unexpected; "):
        tc.convert.to_torch({"params": {1: np.ones(3)}}, MODEL)


def test_statistics_are_in_batch_stats():
    tensors = weights("lvvit")
    variables = tc.convert.from_torch(tensors, cases.model("lvvit"))
    np.testing.assert_array_equal(
        variables["batch_stats"]["patch_embed"]["bn2"]["var"], tensors["patch_embed.bn2.running_var"]
    )
    assert "batch_stats" not in tc.convert.from_torch(weights(), MODEL)


def test_augreg_files_give_the_same_variables():
    expected = tc.convert.from_torch(weights(), MODEL)
    actual = tc.convert.from_torch(augreg(weights(), 3), MODEL)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_augreg_files_with_wrong_number_of_heads_are_rejected():
    """The same weights with two heads. In timm's files the number of heads is not visible."""
    tensors = {key: value for key, value in augreg(weights(), 2).items() if "query" not in key}
    tensors |= {key: value for key, value in augreg(weights(), 3).items() if "query" in key}
    assert (
        "Transformer/encoderblock_{0-2}/MultiHeadDotProductAttention_1/key/kernel: expected shape (48, 3, 16), got (48, 2, 24)"
        in message_of(tensors)
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_converted(kind):
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    tensors = {key: value.astype(dtype) for key, value in weights().items()}
    conversion = convert(tensors, MODEL)
    assert conversion.dtype == kind
    kernel = conversion.variables["params"]["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, tensors["head.weight"].T.astype(np.float32))


def test_wrapper_prefixes_and_counters():
    tensors = {f"module.{name}": value for name, value in weights("lvvit").items()}
    tensors["module.patch_embed.bn1.num_batches_tracked"] = np.asarray(7)
    conversion = convert(tensors, cases.model("lvvit"))
    assert conversion.ignored == ("module.patch_embed.bn1.num_batches_tracked",)
    assert len(conversion.mapped) == len(weights("lvvit"))
    jax.tree.map(
        np.testing.assert_array_equal,
        conversion.variables,
        tc.convert.from_torch(weights("lvvit"), cases.model("lvvit")),
    )


def test_two_names_for_one_variable_are_rejected():
    assert "cls_token: duplicate of embeddings.cls_token" in message_of(
        {"embeddings.cls_token": weights()["cls_token"], **weights()}
    )


def test_missing_and_unexpected_names_are_all_reported():
    tensors = weights()
    tensors["blocks.0.attn.qkv.weights"] = tensors.pop("blocks.0.attn.qkv.weight")
    tensors["head_dist.weight"] = tensors["head.weight"]
    for block in range(3):
        del tensors[f"blocks.{block}.norm2.bias"]
    assert message_of(tensors) == (
        "blocks.0.attn.qkv.weight: not found; "
        "blocks.0.attn.qkv.weights: unexpected (did you mean blocks.0.attn.qkv.weight?); "
        "blocks.{0-2}.norm2.bias: not found; head_dist.weight: unexpected"
    )
    empty = message_of({})
    names = {name.replace("{0-2}", str(block)) for name in empty.split(": not found") for block in range(3)}
    assert set(weights()) <= {name.removeprefix("; ") for name in names}


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("norm.weight", lambda x: x[:-1], "norm.weight: expected shape (48,), got (47,)"),
        ("head.weight", lambda x: x.T, "head.weight: expected shape (10, 48), got (48, 10)"),
        ("pos_embed", lambda x: x[0], "pos_embed: expected shape (1, 65, 48), got (65, 48)"),
        ("pos_embed", lambda x: x[:, :51], "pos_embed: expected shape (1, 65, 48), got (1, 51, 48)"),
        ("pos_embed", lambda x: x[..., :40], "pos_embed: expected shape (1, 65, 48), got (1, 65, 40)"),
        ("pos_embed", lambda x: x[:, :17, :40], "pos_embed: expected shape (1, 65, 48), got (1, 17, 40)"),
        ("norm.bias", lambda x: x.astype(np.int32), "norm.bias: expected a floating-point dtype, got int32"),
        ("norm.bias", lambda x: np.array(["a"] * 48), "norm.bias: expected a floating-point dtype, got str32"),
        ("blocks.2.mlp.fc1.bias", lambda x: x * np.nan, "blocks.2.mlp.fc1.bias: must be finite in float32"),
        ("pos_embed", lambda x: np.concatenate([x[:, :17]] * 2), "pos_embed: expected shape (1, 65, 48), got (2, 17, 48)"),
        ("pos_embed", lambda x: x[:0, :17], "pos_embed: expected shape (1, 65, 48), got (0, 17, 48)"),
        ("pos_embed", lambda x: x[:, :17, :0], "pos_embed: expected shape (1, 65, 48), got (1, 17, 0)"),
        ("norm.bias", lambda x: [[1.0], [1.0, 2.0]], "norm.bias: cannot be read: setting an array element with a sequence."),
        ("cls_token", lambda x: x.astype(np.float64) * 1e300, "cls_token: must be finite in float32"),
        ("cls_token", lambda x: x / 0, "cls_token: must be finite in float32"),
    ],
)  # fmt: skip
def test_invalid_tensor_is_reported(name, change, problem):
    tensors = weights()
    with np.errstate(all="ignore"):
        tensors[name] = change(tensors[name])
    assert message_of(tensors).startswith(problem)


def test_special_characters_in_names_stay_on_one_line():
    assert r"bad\nname: unexpected" in message_of({**weights(), "bad\nname": np.zeros(1)})
    assert "a*b: unexpected" in message_of({**weights(), "a*b": np.zeros(1)})
    assert message_of({**weights(), "a/b": np.zeros(1)}).startswith("a/b: unexpected; use ")


def test_block_number_of_another_block_is_preserved():
    tensors = weights()
    tensors["blocks.12.norm1.weight"] = tensors.pop("blocks.1.norm1.weight")
    assert message_of(tensors) == (
        "blocks.1.norm1.weight: not found; blocks.12.norm1.weight: unexpected (did you mean blocks.1.norm1.weight?)"
    )


def test_parameters_without_augreg_tensor_are_reported():
    tensors = augreg(weights(), 3)
    del tensors["cls"]
    name, overrides, _, _ = cases.case("deit3")
    message = message_of(tensors, tc.create_model(name, **{**overrides, "no_embed_class": False}))
    assert (
        message
        == "cls: not found; params.blocks_{0-2}.ls1.gamma: cannot be stored in AugReg files; params.blocks_{0-2}.ls2.gamma: cannot be stored in AugReg files"
    )


def test_new_head_replaces_classifier():
    name, overrides, _, _ = cases.case("deit")
    ten, three, none = (tc.create_model(name, **{**overrides, "num_classes": classes}) for classes in (10, 3, 0))
    tensors = weights()
    hint = "; use new_head=True (--new-head) for a new classifier"
    assert (
        message_of(tensors, three)
        == "head.bias: expected shape (3,), got (10,); head.weight: expected shape (3, 48), got (10, 48)" + hint
    )
    assert message_of(tensors, none).endswith("head.weight: unexpected" + hint)
    for model in (ten, three, none):
        conversion = convert(tensors, model, new_head=True)
        assert conversion.replaced == ("head.bias", "head.weight")
        head = conversion.variables["params"].get("head")
        assert (head is None) if model is none else not head["kernel"].any() and not head["bias"].any()
        np.testing.assert_array_equal(conversion.variables["params"]["norm"]["scale"], tensors["norm.weight"])
    del tensors["head.weight"], tensors["head.bias"]
    assert message_of(tensors, ten) == "head.bias: not found; head.weight: not found" + hint
    assert tc.convert.from_torch(tensors, ten, new_head=True)["params"]["head"]["kernel"].shape == (48, 10)


def test_new_head_replaces_all_classifiers():
    for family, names in (("lvvit", ("aux_head", "head")), ("deit_distilled", ("head", "head_dist"))):
        name, overrides, _, _ = cases.case(family)
        model = tc.create_model(name, **{**overrides, "num_classes": 4})
        conversion = convert(weights(family), model, new_head=True)
        assert conversion.replaced == tuple(f"{head}.{part}" for head in names for part in ("bias", "weight"))
        for head in names:
            assert conversion.variables["params"][head]["kernel"].shape == (48, 4)


@pytest.mark.parametrize("family", ["deit", "deit3", "gap", "reg4", "deit_distilled"])
def test_positions_are_resampled_for_another_resolution(family):
    name, overrides, _, _ = cases.case(family)
    tensors = weights(family)
    model = tc.create_model(name, **{**overrides, "img_size": (48, 80)})
    conversion = convert(tensors, model)
    assert conversion.resampled == ("pos_embed",)
    positions = conversion.variables["params"]["pos_embed"]
    prefix = tensors["pos_embed"].shape[1] - 64
    assert positions.shape == (1, prefix + 60, 48)
    np.testing.assert_array_equal(positions[:, :prefix], tensors["pos_embed"][:, :prefix])
    # The exported positions are not resampled.
    variables = tc.convert.from_torch(tc.convert.to_torch(conversion.variables, model), model, grid=(6, 10))
    jax.tree.map(np.testing.assert_array_equal, variables, conversion.variables)


def test_ambiguous_grid_requires_grid_argument():
    name, overrides, _, _ = cases.case("deit")
    model = tc.create_model(name, **{**overrides, "img_size": (32, 128)})
    assert message_of(weights(), model) == "pos_embed: ambiguous grid, 8x8 or 4x16 (set grid or --grid)"
    assert convert(weights(), model, grid=(8, 8)).resampled == ("pos_embed",)
    assert convert(weights(), model, grid=(4, 16)).resampled == ()
    assert message_of(weights(), grid=(5, 5)) == "pos_embed: expected 25 positions for grid 5x5, got 64"


def test_augreg_positions_are_resampled_bilinearly():
    name, overrides, _, _ = cases.case("deit")
    model = tc.create_model(name, **{**overrides, "img_size": 96})
    actual = tc.convert.from_torch(augreg(weights(), 3), model)["params"]["pos_embed"][0, 1:].reshape(12, 12, 48)
    positions = weights()["pos_embed"][0, 1:].reshape(8, 8, 48)
    # Bilinear interpolation at pixel centers, first along rows and then along columns.
    coordinates = (np.arange(12) + 0.5) * 8 / 12 - 0.5
    low = np.clip(np.floor(coordinates).astype(int), 0, 7)
    high = np.clip(np.floor(coordinates).astype(int) + 1, 0, 7)
    fraction = (coordinates - np.floor(coordinates))[:, None, None]
    rows = positions[low] * (1 - fraction) + positions[high] * fraction
    expected = rows[:, low] * (1 - fraction[:, 0]) + rows[:, high] * fraction[:, 0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_half_precision_kernels_beside_float32_norms():
    import ml_dtypes

    tensors = {
        name: value.astype(ml_dtypes.bfloat16) if value.ndim > 1 else value.astype(np.float32)
        for name, value in weights().items()
    }
    conversion = convert(tensors, MODEL)
    counts = {dtype: len(names) for dtype, names in conversion.dtypes.items()}
    assert counts == {"bfloat16": sum(value.ndim > 1 for value in tensors.values()), "float32": 28}
    assert conversion.dtype == "bfloat16 (16) and float32 (28)"
    assert "norm.weight" in conversion.dtypes["float32"]
    kernel = conversion.variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["head.weight"].astype(np.float32).T)
    np.testing.assert_array_equal(conversion.variables["params"]["norm"]["scale"], weights()["norm.weight"])


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("deit", "patch_embed.proj.weight", 0), ("deit", "norm.weight", 0), ("gap_fc_norm", "fc_norm.weight", 0),
        ("clip_pre_norm", "norm_pre.weight", 0), ("lvvit", "patch_embed.conv2.weight", 0),
        ("lvvit", "patch_embed.bn1.weight", 0),
    ],
)  # fmt: skip
def test_zeros_that_make_all_features_constant_are_rejected(family, name, value):
    tensors = weights(family)
    tensors[name] = np.full_like(tensors[name], value)
    with pytest.raises(tc.InputError, match=f"{name}: all zeros, so that the features do not depend on the image$"):
        tc.convert.from_torch(tensors, cases.model(family))


def test_negative_variance_is_rejected():
    tensors = weights("lvvit")
    tensors["patch_embed.bn1.running_var"][3] = -1
    assert message_of(tensors, cases.model("lvvit")) == "patch_embed.bn1.running_var: a variance must be >= 0"


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"head.weight": 0}, "head.weight: all zeros, so that the predicted class does not depend on the image"),
        ({"head.weight": 0.5}, "head.weight: the same for all classes, so that the predicted class does not depend on the image"),
        ({f"blocks.{block}.mlp.fc2.weight": 0 for block in range(3)}, "blocks.{0-2}.mlp.fc2.weight: all zeros"),
        ({"blocks.1.attn.qkv.weight": 1}, "blocks.1.attn.qkv.weight: all values are equal"),
        ({"blocks.1.norm1.weight": 0}, "blocks.1.norm1.weight: all zeros"),
    ],
)  # fmt: skip
def test_constant_tensors_are_reported(changes, warning):
    tensors = weights()
    for name, value in changes.items():
        tensors[name] = np.full_like(tensors[name], value)
    assert convert(tensors, MODEL).warnings == (warning,)
    with pytest.warns(UserWarning, match=re.escape(f"weights for {MODEL.variant}: {warning}")) as warned:
        tc.convert.from_torch(tensors, MODEL)
    assert warned[0].filename == __file__


def test_classifier_of_one_class_and_other_zeros_are_not_reported():
    name, overrides, _, _ = cases.case("deit")
    tensors = weights()
    tensors["head.weight"], tensors["head.bias"] = tensors["head.weight"][:1], tensors["head.bias"][:1]
    for zero in ("cls_token", "pos_embed", "norm.bias", "blocks.0.attn.qkv.bias"):
        tensors[zero] = np.zeros_like(tensors[zero])
    assert convert(tensors, tc.create_model(name, **{**overrides, "num_classes": 1})).warnings == ()


# The number of positions of prefix tokens in the file, and those that the model has.
@pytest.mark.parametrize(
    ("family", "stored"), [("deit", 0), ("deit3", 1), ("deit_distilled", 0), ("reg4", 1), ("reg4", 5)]
)
def test_positions_of_prefix_tokens_are_moved(family, stored):
    model, tensors = cases.model(family), weights(family)
    patches = tensors["pos_embed"][:, 0 if model.no_embed_class else model.prefix :]
    prefix = np.random.default_rng(0).standard_normal((1, stored, 48)).astype(np.float32)
    conversion = convert(tensors | {"pos_embed": np.concatenate([prefix, patches], 1)}, model)
    params = conversion.variables["params"]
    assert len(conversion.notes) == 1
    np.testing.assert_array_equal(params["pos_embed"][:, -64:], patches)
    # The embedding adds tokens and positions, so their sums count.
    tokens = [tensors[name] for name in ("cls_token", "dist_token", "reg_token") if name in tensors]
    expected = np.concatenate(tokens, 1)
    expected[:, :stored] += prefix
    actual = np.concatenate([params[name] for name in ("cls_token", "dist_token", "reg_token") if name in params], 1)
    if not model.no_embed_class:
        actual = actual + params["pos_embed"][:, : model.prefix]
    np.testing.assert_array_equal(actual, expected)


def test_long_lists_of_problems_are_shortened():
    tensors = weights() | {f"x{index}.{index}": np.zeros(1) for index in range(20_000)}
    tensors["a." * 500_000] = np.zeros(1)
    message = message_of(tensors)
    assert "and 19961 more" in message
    assert len(message) < 5_000

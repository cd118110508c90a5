"""Named tensors to variables and back: all of them, or an error that says everything that is wrong."""

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.mapping import convert
from tests.convert import cases
from tests.convert.cases import augreg, weights

MODEL = cases.model("deit")


def message_of(given, model=MODEL, **options):
    with pytest.raises(tc.InputError) as caught:
        tc.convert.from_torch(given, model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"the weights do not fit {model.variant}: ")


def test_layouts():
    given = weights()
    params = tc.convert.from_torch(given, MODEL)["params"]
    np.testing.assert_array_equal(params["blocks_1"]["attn"]["qkv"]["kernel"], given["blocks.1.attn.qkv.weight"].T)
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"][2, 5, 1], given["patch_embed.proj.weight"][:, 1, 2, 5]
    )
    np.testing.assert_array_equal(params["norm"]["scale"], given["norm.weight"])


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_there_and_back_is_the_same_to_the_bit(family):
    given, model = weights(family), cases.model(family)
    done = convert(given, model)
    assert sorted(done.mapped) == sorted(given)
    assert not done.resampled + done.replaced + done.ignored
    back = tc.convert.to_torch(done.variables, model)
    assert set(back) == set(given)
    for name, value in given.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], value)


def test_to_torch_refuses_the_variables_of_another_model():
    variables = tc.convert.from_torch(weights(), MODEL)
    with pytest.raises(
        tc.InputError, match=r"do not fit vit_small_patch14_dinov2: params.blocks_\{0-2\}.ls1.gamma is missing; "
    ):
        tc.convert.to_torch(variables, cases.model("dinov2_like"))
    with pytest.raises(tc.InputError, match=r"params.head.kernel has shape \(48, 10\), the model's is \(48, 7\)"):
        tc.convert.to_torch(variables, tc.create_model(MODEL.variant, **{**cases.case("deit")[1], "num_classes": 7}))


def test_statistics_are_variables_of_their_own():
    given = weights("lvvit")
    variables = tc.convert.from_torch(given, cases.model("lvvit"))
    np.testing.assert_array_equal(
        variables["batch_stats"]["patch_embed"]["bn2"]["var"], given["patch_embed.bn2.running_var"]
    )
    assert "batch_stats" not in tc.convert.from_torch(weights(), MODEL)


def test_augreg_names_give_the_same_variables():
    expected = tc.convert.from_torch(weights(), MODEL)
    found = tc.convert.from_torch(augreg(weights(), 3), MODEL)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_augreg_files_say_how_many_heads_they_are_of():
    """The same numbers on two heads: the tensors of timm's files could not tell."""
    two = {key: value for key, value in augreg(weights(), 2).items() if "query" not in key}
    two |= {key: value for key, value in augreg(weights(), 3).items() if "query" in key}
    assert (
        "Transformer/encoderblock_{0-2}/MultiHeadDotProductAttention_1/key/kernel has shape (48, 2, 24), the model's is (48, 3, 16)"
        in message_of(two)
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_other_precisions_are_converted(kind):
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    given = {key: value.astype(dtype) for key, value in weights().items()}
    done = convert(given, MODEL)
    assert done.dtype == kind
    kernel = done.variables["params"]["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, given["head.weight"].T.astype(np.float32))


def test_wrappers_and_counters_of_others():
    given = {f"module.{name}": value for name, value in weights("lvvit").items()}
    given["module.patch_embed.bn1.num_batches_tracked"] = np.asarray(7)
    done = convert(given, cases.model("lvvit"))
    assert done.ignored == ("module.patch_embed.bn1.num_batches_tracked",)
    assert len(done.mapped) == len(weights("lvvit"))
    jax.tree.map(
        np.testing.assert_array_equal, done.variables, tc.convert.from_torch(weights("lvvit"), cases.model("lvvit"))
    )


def test_two_names_for_one_variable_are_an_error():
    assert "cls_token is there twice, also as module.cls_token" in message_of(
        {"module.cls_token": weights()["cls_token"], **weights()}
    )


def test_missing_and_superfluous_names_are_reported_together_and_completely():
    given = weights()
    given["blocks.0.attn.qkv.weights"] = given.pop("blocks.0.attn.qkv.weight")
    given["head_dist.weight"] = given["head.weight"]
    for block in range(3):
        del given[f"blocks.{block}.norm2.bias"]
    assert message_of(given) == (
        "blocks.0.attn.qkv.weight is missing; "
        "blocks.0.attn.qkv.weights has no place in the model, which lacks blocks.0.attn.qkv.weight; "
        "blocks.{0-2}.norm2.bias is missing; head_dist.weight has no place in the model"
    )
    empty = message_of({})
    named = {name.replace("{0-2}", str(block)) for name in empty.split(" is missing") for block in range(3)}
    assert set(weights()) <= {name.removeprefix("; ") for name in named}


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("norm.weight", lambda x: x[:-1], "norm.weight has shape (47,), the model's is (48,)"),
        ("head.weight", lambda x: x.T, "head.weight has shape (48, 10), the model's is (10, 48)"),
        ("pos_embed", lambda x: x[0], "pos_embed has shape (65, 48), the model's is (1, 65, 48)"),
        ("pos_embed", lambda x: x[:, :51], "pos_embed has shape (1, 51, 48), the model's is (1, 65, 48)"),
        ("pos_embed", lambda x: x[..., :40], "pos_embed has shape (1, 65, 40), the model's is (1, 65, 48)"),
        ("pos_embed", lambda x: x[:, :17, :40], "pos_embed has shape (1, 17, 40), the model's is (1, 65, 48)"),
        ("norm.bias", lambda x: x.astype(np.int32), "norm.bias has dtype int32, which is not one of weights"),
        ("norm.bias", lambda x: x.astype(np.float64), "norm.bias has dtype float64, and most have float32"),
        ("norm.bias", lambda x: np.array(["a"] * 48), "norm.bias has dtype str32, which is not one of weights"),
        ("blocks.2.mlp.fc1.bias", lambda x: x * np.nan, "blocks.2.mlp.fc1.bias holds values that are not finite"),
        ("pos_embed", lambda x: np.concatenate([x[:, :17]] * 2), "pos_embed has shape (2, 17, 48), the model's is (1, 65, 48)"),
        ("pos_embed", lambda x: x[:0, :17], "pos_embed has shape (0, 17, 48), the model's is (1, 65, 48)"),
        ("pos_embed", lambda x: x[:, :17, :0], "pos_embed has shape (1, 17, 0), the model's is (1, 65, 48)"),
        ("norm.bias", lambda x: [[1.0], [1.0, 2.0]], "norm.bias cannot be read: setting an array element with a sequence."),
        ("cls_token", lambda x: x.astype(np.float64) * 1e300, "cls_token holds values that are not finite"),
        ("cls_token", lambda x: x / 0, "cls_token holds values that are not finite"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named(name, change, problem):
    given = weights()
    with np.errstate(all="ignore"):
        given[name] = change(given[name])
    assert message_of(given).startswith(problem)


def test_names_are_said_as_they_are_and_stay_on_the_line():
    assert r"bad\nname has no place" in message_of({**weights(), "bad\nname": np.zeros(1)})
    assert "a*b has no place" in message_of({**weights(), "a*b": np.zeros(1)})
    assert message_of({**weights(), "a/b": np.zeros(1)}) == "a/b has no place in the model"


def test_a_number_of_another_block_is_not_taken_for_the_own():
    given = weights()
    given["blocks.12.norm1.weight"] = given.pop("blocks.1.norm1.weight")
    assert message_of(given) == (
        "blocks.1.norm1.weight is missing; blocks.12.norm1.weight has no place in the model, which lacks blocks.1.norm1.weight"
    )


def test_a_part_that_augreg_files_lack_is_named_with_the_rest():
    given = augreg(weights(), 3)
    del given["cls"]
    name, overrides, _, _ = cases.case("deit3")
    message = message_of(given, tc.create_model(name, **{**overrides, "no_embed_class": False}))
    assert (
        message
        == "cls is missing; params.blocks_{0-2}.ls1.gamma has no tensor in AugReg files; params.blocks_{0-2}.ls2.gamma has no tensor in AugReg files"
    )


def test_a_head_of_other_classes_is_replaced_when_asked_to():
    name, overrides, _, _ = cases.case("deit")
    ten, three, none = (tc.create_model(name, **{**overrides, "num_classes": classes}) for classes in (10, 3, 0))
    given = weights()
    advice = "; another classifier replaces it with new_head (--new-head)"
    assert (
        message_of(given, three)
        == "head.bias has shape (10,), the model's is (3,); head.weight has shape (10, 48), the model's is (3, 48)"
        + advice
    )
    assert message_of(given, none).endswith("head.weight has no place in the model" + advice)
    for model in (ten, three, none):
        done = convert(given, model, new_head=True)
        assert done.replaced == ("head.bias", "head.weight")
        head = done.variables["params"].get("head")
        assert (head is None) if model is none else not head["kernel"].any() and not head["bias"].any()
        np.testing.assert_array_equal(done.variables["params"]["norm"]["scale"], given["norm.weight"])
    del given["head.weight"], given["head.bias"]
    assert message_of(given, ten) == "head.bias is missing; head.weight is missing" + advice
    assert tc.convert.from_torch(given, ten, new_head=True)["params"]["head"]["kernel"].shape == (48, 10)


def test_the_heads_of_lvvit_and_of_distilled_models_are_replaced_together():
    for family, names in (("lvvit", ("aux_head", "head")), ("deit_distilled", ("head", "head_dist"))):
        name, overrides, _, _ = cases.case(family)
        model = tc.create_model(name, **{**overrides, "num_classes": 4})
        done = convert(weights(family), model, new_head=True)
        assert done.replaced == tuple(f"{head}.{part}" for head in names for part in ("bias", "weight"))
        for head in names:
            assert done.variables["params"][head]["kernel"].shape == (48, 4)


@pytest.mark.parametrize("family", ["deit", "deit3", "gap", "reg4", "deit_distilled"])
def test_positions_are_resampled_for_another_resolution(family):
    name, overrides, _, _ = cases.case(family)
    given = weights(family)
    model = tc.create_model(name, **{**overrides, "img_size": (48, 80)})
    done = convert(given, model)
    assert done.resampled == ("pos_embed",)
    positions = done.variables["params"]["pos_embed"]
    kept = given["pos_embed"].shape[1] - 64
    assert positions.shape == (1, kept + 60, 48)
    np.testing.assert_array_equal(positions[:, :kept], given["pos_embed"][:, :kept])
    # Exported and read again, at its own size.
    again = tc.convert.from_torch(tc.convert.to_torch(done.variables, model), model, grid=(6, 10))
    jax.tree.map(np.testing.assert_array_equal, again, done.variables)


def test_an_oblong_of_as_many_patches_as_a_square_has_to_be_told():
    name, overrides, _, _ = cases.case("deit")
    model = tc.create_model(name, **{**overrides, "img_size": (32, 128)})
    assert message_of(weights(), model) == "pos_embed may be of 8x8 or of 4x16 patches: say which (--grid)"
    assert convert(weights(), model, grid=(8, 8)).resampled == ("pos_embed",)
    assert convert(weights(), model, grid=(4, 16)).resampled == ()
    assert message_of(weights(), grid=(5, 5)) == "pos_embed has 64 positions, and a grid of 5x5 is said to be theirs"


def test_positions_of_augreg_are_resampled_by_their_own_rule():
    name, overrides, _, _ = cases.case("deit")
    model = tc.create_model(name, **{**overrides, "img_size": 96})
    found = tc.convert.from_torch(augreg(weights(), 3), model)["params"]["pos_embed"][0, 1:].reshape(12, 12, 48)
    given = weights()["pos_embed"][0, 1:].reshape(8, 8, 48)
    # Two of three pixels lie between two others: weights 2/3 and 1/3, or 1/3 and 2/3, and so on by rows and columns.
    at = (np.arange(12) + 0.5) * 8 / 12 - 0.5
    low = np.clip(np.floor(at).astype(int), 0, 7)
    high = np.clip(np.floor(at).astype(int) + 1, 0, 7)
    part = (at - np.floor(at))[:, None, None]
    rows = given[low] * (1 - part) + given[high] * part
    expected = rows[:, low] * (1 - part[:, 0]) + rows[:, high] * part[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

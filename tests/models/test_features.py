"""Features of inner blocks: timm's `forward_intermediates`, and a capture of every block of reduced models."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.models.vit import block_indices
from tests import golden
from tests.models.builders import images_of, small, variables_of

TIMM, _ = golden.read("timm")
INTERMEDIATES = golden.read("timm_intermediates")
CASES = {case["name"]: case for case in TIMM["cases"]}
METHODS = [None, tc.GTP(), tc.TCViT(fuse="soft"), tc.ATS()]


def timm_case(case):
    model = tc.create_model("deit_tiny_patch16_224", **{**case["base"], **case["overrides"]})
    variables = tc.convert.from_torch(golden.state_dict(case["shapes"], case["seed"]), model)
    return model, variables, golden.images(case["batch"], model.img_size, case["seed"])


@pytest.mark.parametrize("name", INTERMEDIATES[0]["cases"])
def test_features_of_blocks_equal_timm(name):
    """Position, prefix, LayerScale and the final norm, which timm omits by default, or omits if it follows the pooling."""
    model, variables, images = timm_case(CASES[name])
    apply = partial(model.apply, method="features", blocks=(0, 2))
    both = jax.jit(lambda v, x: (apply(v, x), apply(v, x, norm=True), apply(v, x, restore=True)))
    plain, normalized, grids = both(variables, images[:1])
    for index, block in enumerate((0, 2)):
        expected = INTERMEDIATES[1][f"{name}/{block}"]
        np.testing.assert_allclose(plain[index], expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(
            normalized[index], INTERMEDIATES[1][f"{name}/{block}/norm"], rtol=0, atol=2e-5
        )  # fmt: skip
        spatial = np.asarray(plain[index])[:, model.prefix :].reshape(grids[index].shape)
        np.testing.assert_array_equal(grids[index], spatial)


@pytest.mark.parametrize(
    ("indices", "norm"), [(None, False), ([0, 1], False), ((-3, -1), True), (2, False), (1, True), ([1], False)]
)
def test_arguments_mean_what_they_mean_in_timm(timm, indices, norm):
    import torch

    case = CASES["deit_distilled"]
    model, variables, images = timm_case(case)
    reference = timm.create_model("deit_tiny_distilled_patch16_224", **case["base"]).eval()
    reference.load_state_dict(
        {k: torch.from_numpy(v) for k, v in golden.state_dict(case["shapes"], case["seed"]).items()}
    )
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        expected = reference.forward_intermediates(
            pixels, indices=indices, norm=norm, return_prefix_tokens=True, intermediates_only=True, stop_early=True
        )
    blocks = model.depth if indices is None else indices
    features = partial(model.apply, method="features", blocks=blocks, norm=norm)
    tokens, grids = jax.jit(lambda v, x: (features(v, x), features(v, x, restore=True)))(variables, images)
    assert len(tokens) == len(grids) == len(expected)
    for token, grid, (spatial, prefix) in zip(tokens, grids, expected, strict=True):
        np.testing.assert_allclose(np.asarray(token)[:, : model.prefix], prefix, rtol=0, atol=2e-5)
        np.testing.assert_allclose(np.asarray(grid).transpose(0, 3, 1, 2), spatial, rtol=0, atol=2e-5)


@pytest.mark.parametrize("reducer", METHODS, ids=str)
def test_features_of_blocks_are_the_tokens_that_leave_them(reducer):
    """Each block's tokens are captured, and its slots restore them, also from its own restore weights."""
    model, images = small(reducer, [5, 4], depth=2), images_of(2)
    variables = variables_of(model)

    def capture(self, x):
        tokens = self.start(x)
        tokens = tokens.with_restore_weights() if reducer is not None and reducer.is_soft else tokens
        tokens = tokens.with_stand_ins() if reducer is not None and reducer.removal != "merge" else tokens
        captured = []
        for block, spec in zip(self.blocks, self.block_specs(prefix_only=False), strict=True):
            tokens = block(tokens, spec, False)
            captured.append(tokens)
        return captured

    @jax.jit
    def run(v, x):
        features = partial(model.apply, v, x, method="features", trace=True)
        return (
            model.apply(v, x, method=capture), features(blocks=2), features(blocks=2, restore=True),
            features(blocks=(-1,), norm=True)[0], model.apply(v, x, method="features"),
        )  # fmt: skip

    captured, (tokens, trace), (grids, _), (normalized,), final = run(variables, images)
    assert len(tokens) == len(grids) == len(trace.slots) == 2
    for block in range(2):
        # XLA fuses the operations of the two programs differently.
        np.testing.assert_allclose(tokens[block], captured[block].x, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(trace.slots[block], captured[block].slots)
        rows = captured[block].slots if captured[block].stand_ins is None else captured[block].stand_ins
        assert (np.asarray(rows) >= 0).all(), "each patch is restored from a survivor"
        expected = tc.restore(captured[block].patches, rows, captured[block].restore_weights)
        assert grids[block].shape == (2, 6, 6, 24)
        np.testing.assert_allclose(grids[block], expected.reshape(2, 6, 6, 24), rtol=0, atol=1e-5)
    if reducer is not None:
        assert all(first.shape[1] > second.shape[1] for first, second in pairwise(tokens))
    np.testing.assert_allclose(normalized, final, rtol=0, atol=1e-5)


def test_lvvit_has_features_of_blocks():
    model = tc.create_model(
        "lvvit_s", tc.GTP(), [0, 3, 3], img_size=64, embed_dim=24, depth=3, num_heads=3, num_classes=5
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    features = partial(model.apply, method="features", blocks=(0, 1, -1))
    tokens = jax.eval_shape(features, shapes, jnp.zeros((2, 64, 64, 3)))
    assert [each.shape for each in tokens] == [(2, 17, 24), (2, 14, 24), (2, 11, 24)]
    grids = jax.eval_shape(partial(features, restore=True), shapes, jnp.zeros((2, 64, 64, 3)))
    assert [each.shape for each in grids] == [(2, 4, 4, 24)] * 3


def test_blocks_after_the_last_requested_one_are_not_computed():
    model, images = small(tc.GTP(), 4), images_of(2)
    # Without the parameters of the other blocks, running them would be an error.
    params = {k: v for k, v in variables_of(model)["params"].items() if k not in ("blocks_1", "blocks_2")}
    features = partial(model.apply, method="features", blocks=(0,), trace=True)
    (tokens,), trace = jax.eval_shape(features, {"params": params}, images)
    assert tokens.shape == (2, 33, 24)
    assert len(trace.kept) == 1


def test_blocks_are_static_under_jit():
    model = small(depth=2)
    run = jax.jit(model.apply, static_argnames=("method", "blocks", "norm"))
    tokens = run.eval_shape(variables_of(model), images_of(2), method="features", blocks=(-1,), norm=True)
    assert [each.shape for each in tokens] == [(2, 37, 24)]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((3, 6, 9), (3, 6, 9)), ([0], (0,)), (range(2, 5), (2, 3, 4)), (np.array([1, 11]), (1, 11)), (1, (11,)),
        (12, tuple(range(12))), (np.int64(2), (10, 11)), ((-12, -1), (0, 11)), ((2, -2), (2, 10)),
    ],
)  # fmt: skip
def test_block_indices(blocks, expected):
    assert block_indices(blocks, 12) == expected


RANGE = "one or more indices in [-12, 11]"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (0, "blocks=0: must be in [1, 12], the number of blocks; use (i,) for block i"),
        (13, "blocks=13: must be in [1, 12], the number of blocks; use (i,) for block i"),
        (-1, "blocks=-1: must be in [1, 12], the number of blocks; use (i,) for block i"),
        ((), f"blocks=(): must be {RANGE}"),
        ((12,), f"blocks=(12,): must be {RANGE}"),
        ((0, -13), f"blocks=(0, -13): must be {RANGE}"),
        ((6, 3), "blocks=(6, 3): must be ascending, each block once"),
        ((3, 3), "blocks=(3, 3): must be ascending, each block once"),
        ((11, -1), "blocks=(11, -1): must be ascending, each block once"),
        ((1.0,), "blocks=1.0: must be an integer"),
        ((True,), "blocks=True: must be an integer"),
        ("3", "blocks='3': must be an integer"),
        (True, "blocks=True: must be an integer"),
    ],
)
def test_invalid_blocks_are_one_line_errors(blocks, message):
    with pytest.raises(tc.InputError) as error:
        block_indices(blocks, 12)
    assert str(error.value) == message

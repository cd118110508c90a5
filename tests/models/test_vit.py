"""The plain model against timm, the condensed one against the official GTP code, and what must hold for any reducer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.reducers import REDUCERS
from tests import golden

TIMM, TIMM_ARRAYS = golden.read("timm")
GTP, GTP_ARRAYS = golden.read("gtp")
SCORES = {
    "DiagAttnMean": "diag_mean",
    "DiagAttnMax": "diag_max",
    "IMGAttnMean": "received_mean",
    "IMGAttnMax": "received_max",
    "MixedAttnMean": "mixed_mean",
    "MixedAttnMax": "mixed_max",
    "SumAttnMax": "sum_max",
    "CLSAttnMean": "cls_mean",
    "CLSAttnMax": "cls_max",
    "CosSimMean": "cosine_mean",
    "CosSimMax": "cosine_max",
}
SMALL = {"img_size": 24, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
METHODS = [pytest.param(kind(), id=name) for name, kind in REDUCERS.items()]


def small(reducer=None, schedule=0, **overrides):
    return tc.create_model("deit_tiny_patch16_224", reducer, schedule, **{**SMALL, **overrides})


def variables_of(model, seed=0):
    """Parameters with enough spread that attention is not flat."""
    images = jnp.zeros((1, *model.img_size, model.in_chans))
    params = jax.jit(model.init)(jax.random.key(seed), images)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


def run(model, variables, images):
    return jax.jit(model.apply)(variables, images)


def images_of(batch, seed=0):
    return golden.images(batch, (24, 24), seed)


@pytest.mark.parametrize("case", TIMM["cases"], ids=lambda case: case["name"])
def test_plain_model_equals_timm(case):
    model = tc.create_model("deit_tiny_patch16_224", **case["base"], **case["overrides"])
    variables = tc.convert.from_torch(golden.state_dict(case["shapes"], case["seed"]), model)
    images = golden.images(case["batch"], model.img_size, case["seed"])
    logits = run(model, variables, images)
    np.testing.assert_allclose(logits, TIMM_ARRAYS[f"{case['name']}/logits"], rtol=0, atol=1e-5)
    tokens = jax.jit(lambda v, x: model.apply(v, x, method="features"))(variables, images)
    np.testing.assert_allclose(tokens, TIMM_ARRAYS[f"{case['name']}/tokens"], rtol=0, atol=2e-5)


def official(case):
    """The model, its variables and images of one case of the official code."""
    config = GTP["configs"][case["config"]]
    reducer = tc.GTP(
        score=SCORES[case.get("sel", "MixedAttnMax")],
        graph=case.get("graph", "Mixed").lower().replace("none", "mixed"),
        neighbors=case.get("M", 8),
        alpha=case.get("alpha", 0.1),
        attention_keep=case.get("theta", 1.0),
        propagation={"GraphProp": "graph"}.get(case.get("prop", "GraphProp"), case.get("prop", "").lower()),
        proportional_attention=case.get("scale", True),
    )
    pooled = {"class_token": False, "global_pool": "avg", "fc_norm": False} if config.get("cls") is False else {}
    model = tc.create_model(
        "deit_tiny_patch16_224",
        reducer,
        case["P"],
        img_size=config["img"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        num_classes=config["classes"],
        **pooled,
    )
    variables = tc.convert.from_torch(golden.state_dict(config["shapes"], config["seed"]), model)
    return model, variables, golden.images(config["batch"], model.img_size, config["seed"])


def _in_order_of(rows, others):
    """`rows [T, D]` in the order of those of `others` that they are nearest to, each of them once."""
    nearest = np.abs(others[:, None] - rows).max(-1).argmin(1)
    assert sorted(nearest) == list(range(len(rows)))
    return rows[nearest]


@pytest.mark.parametrize("case", GTP["cases"], ids=lambda case: case["key"])
def test_gtp_equals_the_official_code(case):
    model, variables, images = official(case)
    logits = run(model, variables, images)
    tokens, trace = jax.jit(lambda v, x: model.apply(v, x, trace=True, method="features"))(variables, images)
    np.testing.assert_allclose(logits, GTP_ARRAYS[f"{case['key']}/logits"], rtol=0, atol=2e-5)
    expected = GTP_ARRAYS[f"{case['key']}/tokens"]
    if case.get("prop") == "Mean":
        # Tokens that are means of others have no index to sort by: these are in the official code's own order.
        assert f"{case['key']}/kept0" not in GTP_ARRAYS
        tokens = np.stack([_in_order_of(*pair) for pair in zip(np.asarray(tokens), expected, strict=True)])
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=2e-5)
    for block in range(model.depth if case["P"] and case.get("prop") != "Mean" else 0):
        np.testing.assert_array_equal(trace.kept[block], GTP_ARRAYS[f"{case['key']}/kept{block}"])


@pytest.mark.parametrize("reducer", METHODS)
def test_removing_nothing_is_the_plain_model_bit_for_bit(reducer):
    plain, images = small(), images_of(2)
    variables = variables_of(plain)
    expected = run(plain, variables, images)
    for model in (small(reducer, 0), small(reducer, [0, 0, 0]), small(None, 5)):
        np.testing.assert_array_equal(run(model, variables, images), expected)


@pytest.mark.parametrize("reducer", METHODS)
def test_an_image_gives_the_same_answer_alone_and_in_a_batch(reducer):
    model, images = small(reducer, 8), images_of(5)
    variables = variables_of(model)
    one = jax.jit(model.apply)
    together = run(model, variables, images)
    alone = jnp.concatenate([one(variables, image[None]) for image in images])
    # The kept sets are equal; only the order of sums inside matrix products differs with the batch.
    np.testing.assert_allclose(together, alone, rtol=0, atol=5e-6)


@pytest.mark.parametrize("reducer", METHODS)
def test_trace_follows_every_patch(reducer):
    model, images = small(reducer, [4, 0, 9]), images_of(3)
    variables = variables_of(model)
    logits, trace = jax.jit(lambda v, x: model.apply(v, x, trace=True))(variables, images)
    np.testing.assert_allclose(logits, run(model, variables, images), rtol=0, atol=1e-6)
    before = np.tile(np.arange(36), (3, 1))
    for kept, slots, sizes, counts, left in zip(
        trace.kept, trace.slots, trace.sizes, trace.counts, (32, 32, 23), strict=True
    ):
        assert kept.shape == sizes.shape == (3, left)
        assert slots.shape == (3, 36)
        np.testing.assert_array_equal(counts, left)
        assert (np.diff(kept, axis=1) > 0).all()
        for image in range(3):
            assert set(np.asarray(kept[image])) <= set(before[image])
            # A survivor sits in its own slot.
            np.testing.assert_array_equal(slots[image, kept[image]], np.arange(left))
        before = np.asarray(kept)


@pytest.mark.parametrize("reducer", METHODS)
def test_bfloat16_ranks_in_float32_and_stays_close(reducer):
    images = images_of(2)
    exact, half = small(reducer, 6), small(reducer, 6, dtype="bfloat16")
    variables = variables_of(exact)
    logits = run(half, variables, images)
    assert logits.dtype == jnp.float32
    # Features carry 8 bits, so some borderline tokens may swap: agreement is coarse, and scale-free.
    expected = run(exact, variables, images)
    assert float(jnp.abs(logits - expected).max() / jnp.abs(expected).max()) < 0.1


@pytest.mark.parametrize("reducer", [None, *METHODS])
def test_gradients_are_finite_and_reach_every_parameter(reducer):
    model, images = small(reducer, 8), images_of(2)
    variables = variables_of(model)
    gradients = jax.jit(jax.grad(lambda v: (model.apply(v, images) ** 2).sum()))(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert bool(jnp.isfinite(leaf).all()), path
        assert bool((leaf != 0).any()), path


@pytest.mark.parametrize("reducer", METHODS)
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_constant_image_gives_no_nan(reducer, fill):
    model = small(reducer, 8)
    logits = run(model, variables_of(model), jnp.full((1, 24, 24, 3), fill))
    assert bool(jnp.isfinite(logits).all())


@pytest.mark.parametrize("reducer", METHODS)
def test_one_patch_may_be_all_that_is_left(reducer):
    model = small(reducer, [0, 0, 35])
    logits, trace = jax.jit(lambda v, x: model.apply(v, x, trace=True))(variables_of(model), images_of(2))
    assert trace.kept[-1].shape == (2, 1)
    assert bool(jnp.isfinite(logits).all())


def test_rectangular_images():
    model = small(tc.GTP(graph="spatial"), 3, img_size=(16, 32))
    assert model.grid == (4, 8)
    logits = run(model, variables_of(model), golden.images(2, (16, 32), 0))
    assert logits.shape == (2, 7)


def test_dropout_and_drop_path_act_in_training_alone():
    model, images = small(drop_path_rate=0.5, proj_drop_rate=0.2, pos_drop_rate=0.1, drop_rate=0.1), images_of(4)
    variables = variables_of(model)
    plain = run(small(), variables, images)
    np.testing.assert_array_equal(run(model, variables, images), plain)

    @jax.jit
    def train(seed):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    assert not np.allclose(train(0), plain)


def test_drop_path_keeps_the_expectation():
    from tcvit_jax.models.layers import DropPath

    x = jnp.ones((20_000, 1, 1))
    out = DropPath(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    # Three standard errors of the mean of 20,000 Bernoulli draws.
    assert abs(float(out.mean()) - 1) < 3 * np.sqrt(0.3 / 0.7 / 20_000)


@pytest.mark.parametrize("shape", [(2, 24, 20, 3), (2, 24, 24, 1), (24, 24, 3)])
def test_images_of_another_shape_are_refused(shape):
    model = small()
    variables = variables_of(model)
    with pytest.raises(tc.InputError) as caught:
        model.apply(variables, jnp.zeros(shape))
    assert caught.value.args == (f"images have shape {shape}: deit_tiny_patch16_224 takes [B, 24, 24, 3]",)

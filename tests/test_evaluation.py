"""Exact evaluation: ranks, masked batches and NaN logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tcvit_jax as tc
from tcvit_jax import evaluation, models, sharding
from tcvit_jax.data import EvalTransform, eval_batches
from tcvit_jax.evaluation import evaluate, make_eval_step
from tests.models.builders import small, variables_of

label_rank = jax.jit(evaluation.label_rank)


@given(
    hnp.arrays(np.float32, (4, 7), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_rank_is_the_index_in_a_stable_descending_sort(logits, labels):  # fmt: skip
    order = np.argsort(-logits, axis=-1, kind="stable")
    expected = [list(order[row]).index(label) for row, label in enumerate(labels)]
    np.testing.assert_array_equal(label_rank(jnp.asarray(logits), jnp.asarray(labels)), expected)


def test_equal_logits_rank_by_index_as_in_argmax():
    ranks = label_rank(jnp.zeros((3, 10)), jnp.asarray([0, 1, 9]))
    np.testing.assert_array_equal(ranks, [0, 1, 9])


def test_nan_logits_are_never_correct():
    logits = jnp.full((1, 10), jnp.nan)
    assert int(label_rank(logits, jnp.asarray([3]))[0]) == 9
    assert int(label_rank(jnp.asarray([[1.0, jnp.nan, 0.0]]), jnp.asarray([0]))[0]) == 1


class Noise:
    """A source of random images with random labels."""

    classes = tuple("0123456")

    def __init__(self, count, seed=0):
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, 24, 24, 3), np.uint8)
        self.labels = rng.integers(0, 7, count)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}


MODEL = small(tc.TCViT(), 8)
VARIABLES = variables_of(MODEL)
PREPROCESSING = models.preprocessing(MODEL.variant)
FORWARD = jax.jit(MODEL.apply)
MESH = sharding.data_mesh()
STEP = make_eval_step(MODEL, PREPROCESSING, MESH)


def reference_metrics(source):
    """The metrics of all images at once, in NumPy."""
    mean, std = np.asarray(PREPROCESSING.mean), np.asarray(PREPROCESSING.std)
    images = ((source.images / 255 - mean) / std).astype(np.float32)
    images = np.concatenate([images, np.zeros((24 - len(images), 24, 24, 3), np.float32)])
    logits = np.asarray(FORWARD(VARIABLES, images))[: len(source)]
    order = np.argsort(-logits, axis=-1, kind="stable")
    label_logits = np.take_along_axis(logits, source.labels[:, None], 1)[:, 0]
    loss = np.log(np.exp(logits).sum(-1)) - label_logits
    return (order[:, 0] == source.labels).sum(), (order[:, :5] == source.labels[:, None]).sum(), loss.mean()


@settings(max_examples=10)
@given(st.integers(1, 24), st.sampled_from([8, 16]), st.integers(0, 9))
def test_every_example_counts_once_for_any_batch_size(count, batch, seed):
    source = Noise(count, seed)
    batches = eval_batches(source, EvalTransform((24, 24), crop_pct=1.0), batch_size=batch)
    result = evaluate(STEP, VARIABLES, batches, MESH)
    top1, top5, loss = reference_metrics(source)
    assert result.examples == count
    assert (round(result.top1 * count), round(result.top5 * count)) == (top1, top5)
    assert result.loss == pytest.approx(loss, abs=1e-5)


def test_empty_split_is_an_error():
    with pytest.raises(tc.InputError, match="evaluation split: expected at least one example, got 0"):
        evaluate(STEP, VARIABLES, [], MESH)


def test_variables_of_another_model_are_an_error():
    batch = {"image": np.zeros((8, 24, 24, 3), np.uint8), "label": np.zeros(8, np.int32), "mask": np.ones(8, np.int32)}
    for other, message in (
        (small(depth=5), "expected 3 blocks, got 5"),
        (small(distilled=True), "params.pos_embed: expected float"),
        (small(qkv_bias=False), "params.blocks_0.attn.qkv.bias: not found"),
    ):
        variables = models.variable_shapes(other)
        with pytest.raises(tc.InputError, match=f"variables of deit_tiny_patch16_224: {message}"):
            jax.eval_shape(STEP, variables, batch)


def nonfinite_logits(model, preprocessing, variables, batch):
    """Logits of 7 classes: NaN for a white first pixel, infinite for a black one as in padding, and finite for others."""
    first = batch["image"][:, 0, 0, 0].astype(jnp.float32)
    logits = jnp.where(first[:, None] == 255, jnp.nan, first[:, None] * jnp.arange(7))
    return logits.at[:, 3].set(jnp.where(first == 0, -jnp.inf, logits[:, 3]))


@pytest.fixture
def nonfinite_source(monkeypatch):
    monkeypatch.setattr(evaluation, "compute_logits", nonfinite_logits)
    source = Noise(21)
    source.images[:, 0, 0, 0] = 9
    source.images[[2, 17], 0, 0, 0] = 255
    source.images[20, 0, 0, 0] = 0
    return source


@pytest.mark.parametrize("batch", [8, 16])
def test_images_with_nonfinite_logits_are_counted(nonfinite_source, batch):
    """Exactly, over all devices and without padding."""
    step = make_eval_step(MODEL, PREPROCESSING, MESH)
    batches = eval_batches(nonfinite_source, EvalTransform((24, 24), crop_pct=1.0), batch_size=batch)
    result = evaluate(step, {}, batches, MESH)
    assert (result.nonfinite, result.examples) == (3, 21)
    assert str(result).endswith("  WARNING: logits are not finite for 3 of 21 images")


def test_ranks_say_which_logits_are_finite(nonfinite_source):
    step = evaluation.make_rank_step(MODEL, PREPROCESSING, MESH)
    batches = eval_batches(nonfinite_source, EvalTransform((24, 24), crop_pct=1.0), batch_size=24)
    (batch,) = batches
    _, is_finite = step({}, sharding.place(batch, MESH))
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(is_finite)), [2, 17, 20, 21, 22, 23])


def test_finite_logits_are_not_mentioned():
    source = Noise(8)
    result = evaluate(STEP, VARIABLES, eval_batches(source, EvalTransform((24, 24), crop_pct=1.0), batch_size=8), MESH)
    assert result.nonfinite == 0
    assert "finite" not in str(result)

"""Losses per row, against their formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops import plans
from tcvit_jax.training import losses

RNG = np.random.default_rng(0)
STUDENT_LOGITS, TEACHER_LOGITS = RNG.standard_normal((2, 5, 7))
LABEL = RNG.integers(0, 7, 5)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_cross_entropy_with_label_smoothing():
    target = 0.9 * np.eye(7)[LABEL] + 0.1 / 7
    actual = losses.label_targets(jnp.asarray(LABEL), 7, 0.1)
    np.testing.assert_allclose(actual, target, atol=1e-6)
    expected = -(target * log_softmax(STUDENT_LOGITS)).sum(-1)
    np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(STUDENT_LOGITS), actual), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_scaled_kl_divergence(temperature):
    p, q = log_softmax(TEACHER_LOGITS / temperature), log_softmax(STUDENT_LOGITS / temperature)
    expected = temperature**2 * (np.exp(p) * (p - q)).sum(-1)
    actual = losses.soft_distillation(jnp.asarray(STUDENT_LOGITS), jnp.asarray(TEACHER_LOGITS), temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    zero = losses.soft_distillation(jnp.asarray(TEACHER_LOGITS), jnp.asarray(TEACHER_LOGITS), temperature)
    np.testing.assert_allclose(zero, 0, atol=1e-6)


def test_hard_distillation_is_cross_entropy_of_the_teacher_class():
    expected = -log_softmax(STUDENT_LOGITS)[np.arange(5), TEACHER_LOGITS.argmax(-1)]
    np.testing.assert_allclose(
        losses.hard_distillation(jnp.asarray(STUDENT_LOGITS), jnp.asarray(TEACHER_LOGITS)), expected, rtol=1e-5
    )


def test_token_distillation_averages_over_the_mask():
    student, teacher = RNG.standard_normal((2, 3, 6, 4))
    mask = np.array([[1, 1, 0, 1, 0, 1], [0] * 6, [1] * 6], bool)
    expected = [
        np.mean([np.mean((student[b, n] - teacher[b, n]) ** 2) for n in range(6) if mask[b, n]] or [0])
        for b in range(3)
    ]
    actual = losses.token_distillation(jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(mask))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_token_label_loss_weights_tokens_by_patches():
    """A merged token counts as all its patches; a padding token, whose logits are NaN here, does not count."""
    logits = RNG.standard_normal((2, 3, 7))
    target = RNG.dirichlet(np.ones(7), (2, 3))
    count = np.array([[2.0, 1.0, 4.0], [3.0, 0.0, 1.0]])
    loss = -(target * log_softmax(logits)).sum(-1)
    logits[1, 1] = np.nan
    expected = (np.where(count > 0, loss, 0) * count).sum(-1) / count.sum(-1)
    actual = losses.token_label_loss(jnp.asarray(logits), jnp.asarray(target), jnp.asarray(count))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_pool_patches_averages_labels_per_token():
    """Compared with loops over slots, and with an einsum over restore weights."""
    values = RNG.standard_normal((2, 6, 4)).astype(np.float32)
    slots = np.array([[0, 0, 1, -1, 2, 2], [2, 1, 1, 1, -1, 2]])
    expected, expected_count = np.zeros((2, 3, 4)), np.zeros((2, 3))
    for b in range(2):
        for token in range(3):
            members = [values[b, n] for n in range(6) if slots[b, n] == token]
            expected_count[b, token] = len(members)
            expected[b, token] = np.mean(members, axis=0) if members else 0
    actual, count = plans.pool_patches(jnp.asarray(values), jnp.asarray(slots), 3)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_array_equal(count, expected_count)
    restore_weights = RNG.dirichlet(np.ones(3), (2, 6)).astype(np.float32)
    expected = np.einsum("bns,bnc->bsc", restore_weights, values) / restore_weights.sum(1)[..., None]
    actual, count = plans.pool_patches(jnp.asarray(values), jnp.asarray(slots), 3, jnp.asarray(restore_weights))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(count, restore_weights.sum(1), rtol=1e-6)


def test_label_map_targets_are_the_softmax_of_the_cropped_logits():
    """Compared with loops over a dense map. The crop is the full image, with one cell of the map per patch."""
    from tcvit_jax.data.label_maps import crop_label_map

    label_map = np.stack(
        [
            RNG.standard_normal((5, 4, 6)),
            RNG.permuted(np.tile(np.arange(7), (4, 6, 1)), axis=-1)[..., :5].transpose(2, 0, 1),
        ]
    )
    dense = np.zeros((7, 4, 6))
    for k, y, x in np.ndindex(5, 4, 6):
        dense[int(label_map[1, k, y, x]), y, x] += label_map[0, k, y, x]
    crop = crop_label_map(label_map.astype(np.float32), (0, 0, 60, 40), (40, 60), (4, 6))
    batch = {f"map_{key}": jnp.asarray(value)[None] for key, value in crop.items()}
    image, patches = losses.label_map_targets(batch, 7, 0.1)
    rows, columns = np.float64(crop["rows"]), np.float64(crop["columns"])
    logits = np.stack([rows @ dense[c] @ columns.T for c in range(7)], axis=-1).reshape(24, 7)
    np.testing.assert_allclose(patches[0], 0.9 * np.exp(log_softmax(logits)) + 0.1 / 7, atol=1e-5)
    mean = np.stack([np.float64(crop["image_rows"]) @ dense[c] @ np.float64(crop["image_columns"]) for c in range(7)])
    np.testing.assert_allclose(image[0], 0.9 * np.exp(log_softmax(mean)) + 0.1 / 7, atol=1e-5)
    np.testing.assert_allclose(np.asarray(patches).sum(-1), 1, rtol=1e-5)

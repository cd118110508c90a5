"""Mixup, CutMix and random erasing: equal to timm for the same draws, and draws with the expected distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops.rows import Rows
from tcvit_jax.training import losses, mixing
from tcvit_jax.training.mixing import Mixing


def make_images(rng, count=6, size=(20, 28)):
    return rng.standard_normal((count, *size, 3)).astype(np.float32)


def order_pairs(x):
    """Reorder rows so that timm's pairs, first with last, are neighbors; return the rows and the inverse permutation."""
    order = [i for pair in zip(range(len(x) // 2), reversed(range(len(x))), strict=False) for i in pair]
    return x[order], np.argsort(order)


cutmix_box = jax.jit(mixing.cutmix_box, static_argnums=0)


@settings(max_examples=60)
@given(st.sampled_from([(1, 1), (1, 40), (7, 3), (32, 20), (40, 39)]), st.floats(0, 1), st.data())
def test_cutmix_box_matches_numpy(size, lam, data):
    height, width = size
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = np.asarray(cutmix_box(size, jnp.float32(lam), jnp.array([row, column])))
    ratio = np.sqrt(np.float32(1) - np.float32(lam))
    box_height, box_width = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
    expected = [
        max(row - box_height // 2, 0), min(row + (box_height + 1) // 2, height),
        max(column - box_width // 2, 0), min(column + (box_width + 1) // 2, width),
    ]  # fmt: skip
    assert box.tolist() == expected


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_mixup_is_the_weighted_sum_of_partners(weight):
    images = make_images(np.random.default_rng(0), 4)
    mix = mixing.make_mix(jnp.float32(weight), jnp.zeros(4, jnp.int32), images.shape[1:3])
    actual = mixing.mix_images(jnp.asarray(images), mix)
    np.testing.assert_allclose(actual, weight * images + (1 - weight) * images[[1, 0, 3, 2]], atol=1e-6)
    assert float(mix.target_weight) == pytest.approx(weight)


def test_cutmix_copies_the_partner_box_and_weights_targets_by_area():
    images = make_images(np.random.default_rng(0), 4)
    mix = mixing.make_mix(jnp.float32(1), jnp.array([3, 13, 20, 28]), images.shape[1:3])
    expected = images.copy()
    expected[:, 3:13, 20:28] = images[[1, 0, 3, 2], 3:13, 20:28]
    np.testing.assert_array_equal(mixing.mix_images(jnp.asarray(images), mix), expected)
    assert float(mix.target_weight) == pytest.approx(1 - 80 / 560)


@pytest.mark.parametrize("seed", range(8))
def test_mixing_equals_timm_for_the_same_draws(timm, torch, seed, monkeypatch):
    """Images and targets; the random numbers of timm are recorded."""
    from timm.data.mixup import Mixup

    rng = np.random.default_rng(seed)
    images, labels = make_images(rng), rng.integers(0, 7, 6)
    draws = {"beta": [], "randint": [], "rand": []}
    source = np.random.RandomState(seed)
    for name in draws:
        monkeypatch.setattr(
            np.random,
            name,
            lambda *a, name=name, **k: draws[name].append(getattr(source, name)(*a, **k)) or draws[name][-1],
        )
    mixup = Mixup(0.8, 1.0, prob=0.9, switch_prob=0.5, label_smoothing=0.1, num_classes=7)
    expected, target = mixup(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels))
    size = images.shape[1:3]
    weight, box = jnp.float32(1), jnp.zeros(4, jnp.int32)
    if draws["beta"] and draws["rand"][1] < 0.5:
        box = mixing.cutmix_box(size, jnp.float32(draws["beta"][0]), jnp.array([int(n) for n in draws["randint"]]))
    elif draws["beta"]:
        weight = jnp.float32(draws["beta"][0])
    mix = mixing.make_mix(weight, box, size)
    ordered, inverse = order_pairs(images)
    actual = np.asarray(mixing.mix_images(jnp.asarray(ordered), mix))[inverse]
    np.testing.assert_allclose(actual, expected.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    smoothed = losses.label_targets(jnp.asarray(labels[np.argsort(inverse)]), 7, 0.1)
    np.testing.assert_allclose(
        np.asarray(mixing.mix_targets(smoothed, mix.target_weight))[inverse], target.numpy(), atol=1e-6
    )


def test_draws_have_the_expected_distribution():
    keys = jax.random.split(jax.random.key(0), 4000)
    mix = jax.jit(jax.vmap(lambda key: Mixing(0.8, 1.0, 0.9, 0.3).draw(key, (16, 16))))(keys)
    is_cutmix, is_mixup = np.asarray(mix.box.any((1, 2))), np.asarray(mix.weight < 1)
    assert not (is_cutmix & is_mixup).any()
    # A small box contains no pixel, so CutMix leaves a few images unchanged.
    assert is_mixup.mean() == pytest.approx(0.9 * 0.7, abs=0.025)
    assert is_cutmix.mean() == pytest.approx(0.9 * 0.3, abs=0.025)
    weights = np.asarray(mix.weight)[is_mixup]
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    # Beta(a, a) has variance 1 / (4 (2a + 1)).
    assert weights.var() == pytest.approx(1 / (4 * 2.6), rel=0.06)
    np.testing.assert_allclose(
        mix.target_weight, np.where(is_cutmix, 1 - np.asarray(mix.box).mean((1, 2)), mix.weight), atol=1e-6
    )
    disabled = Mixing(0.0, 0.0).draw(keys[0], (4, 4))
    assert (float(disabled.weight), bool(disabled.box.any()), float(disabled.target_weight)) == (1.0, False, 1.0)


def test_erasing_boxes_have_the_areas_and_aspect_ratios_of_timm():
    size = (64, 48)
    boxes = np.asarray(
        jax.jit(lambda key: mixing.draw_erasing_boxes(key, Rows.resolve(None, 4000), size, 0.25))(jax.random.key(1))
    )
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    is_erased = height > 0
    assert is_erased.mean() == pytest.approx(0.25, abs=0.025)
    assert (boxes[:, [0, 2]] >= 0).all()
    assert (boxes[:, 1] <= size[0]).all()
    assert (boxes[:, 3] <= size[1]).all()
    assert (height[is_erased] < size[0]).all()
    assert (width[is_erased] < size[1]).all()
    area = (height * width)[is_erased] / (size[0] * size[1])
    assert area.min() > 0.015
    assert area.max() < 1 / 3 + 0.02
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    aspect = np.log(height[is_erased] / width[is_erased])
    assert np.abs(aspect).max() < -np.log(0.3) + 0.2
    # The position is uniform.
    assert (boxes[is_erased, 0] / (size[0] - height[is_erased])).mean() == pytest.approx(0.5, abs=0.03)


def test_erasing_equals_timm_for_the_same_draws(timm, torch, monkeypatch):
    """`erase` with the boxes and the noise of timm returns the images of timm."""
    import random

    from timm.data.random_erasing import RandomErasing

    rng = np.random.default_rng(0)
    images = make_images(rng, 8)
    noise, boxes = [], []
    monkeypatch.setattr(
        "timm.data.random_erasing._get_pixels", lambda a, b, shape, **_: noise.append(torch.randn(shape)) or noise[-1]
    )
    source = random.Random(3)
    monkeypatch.setattr(random, "random", source.random)
    monkeypatch.setattr(random, "uniform", source.uniform)
    positions = []
    monkeypatch.setattr(random, "randint", lambda a, b: positions.append(source.randint(a, b)) or positions[-1])
    expected, noise_images = [], np.zeros_like(images)
    for index, image in enumerate(images):
        count = len(noise)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        expected.append(RandomErasing(0.5, mode="pixel", device="cpu")(tensor).numpy().transpose(1, 2, 0))
        box = [0, 0, 0, 0]
        if len(noise) > count:
            top, left = positions[-2:]
            block = noise[-1].numpy().transpose(1, 2, 0)
            box = [top, top + block.shape[0], left, left + block.shape[1]]
            noise_images[index, box[0] : box[1], box[2] : box[3]] = block
        boxes.append(box)
    assert 0 < len(noise) < 8
    np.testing.assert_array_equal(
        mixing.erase(jnp.asarray(images), jnp.array(boxes), jnp.asarray(noise_images)), np.stack(expected)
    )


def test_erased_pixels_are_noise_and_others_unchanged():
    images = jnp.full((64, 32, 32, 3), 7.0)
    actual = np.asarray(jax.jit(lambda key: mixing.random_erasing(key, images, 1.0))(jax.random.key(0)))
    is_changed = actual != 7
    assert (is_changed.any((1, 2, 3))).mean() > 0.95
    assert actual[is_changed].mean() == pytest.approx(0, abs=0.03)
    assert actual[is_changed].std() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(mixing.random_erasing(jax.random.key(0), images, 0.0), images)


@pytest.mark.slow
def test_erasing_depends_on_the_row_number_only():
    images = jnp.asarray(make_images(np.random.default_rng(0), 8))
    key = jax.random.key(2)
    full = mixing.random_erasing(key, images, 0.7)
    part = mixing.random_erasing(key, images[4:], 0.7, Rows(jnp.array([4, 5, 6, 7]), 8))
    np.testing.assert_array_equal(part, full[4:])

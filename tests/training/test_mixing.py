"""Mixup, CutMix and random erasing: timm's outputs for timm's draws, and draws of the right distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops.rows import Rows
from tcvit_jax.training import losses, mixing
from tcvit_jax.training.mixing import Mixing


def images_of(rng, count=6, size=(20, 28)):
    return rng.standard_normal((count, *size, 3)).astype(np.float32)


def pairs(x):
    """Rows in the order in which timm's pairing, the first with the last, is that of neighbors."""
    order = [i for pair in zip(range(len(x) // 2), reversed(range(len(x))), strict=False) for i in pair]
    return x[order], np.argsort(order)


cut_box = jax.jit(mixing.cut_box, static_argnums=0)


@settings(max_examples=60)
@given(st.sampled_from([(1, 1), (1, 40), (7, 3), (32, 20), (40, 39)]), st.floats(0, 1), st.data())
def test_the_box_of_cutmix_is_the_one_written_out(size, lam, data):
    height, width = size
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = np.asarray(cut_box(size, jnp.float32(lam), jnp.array([row, column])))
    ratio = np.sqrt(np.float32(1) - np.float32(lam))
    rows_, columns = int(np.float32(height) * ratio), int(np.float32(width) * ratio)
    expected = [
        max(row - rows_ // 2, 0), min(row + (rows_ + 1) // 2, height),
        max(column - columns // 2, 0), min(column + (columns + 1) // 2, width),
    ]  # fmt: skip
    assert box.tolist() == expected


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_is_the_weighted_sum_of_partners(share):
    images = images_of(np.random.default_rng(0), 4)
    mixed = mixing.mix(jnp.float32(share), jnp.zeros(4, jnp.int32), images.shape[1:3])
    found = mixing.mix_images(jnp.asarray(images), mixed)
    np.testing.assert_allclose(found, share * images + (1 - share) * images[[1, 0, 3, 2]], atol=1e-6)
    assert float(mixed.label) == pytest.approx(share)


def test_cutmix_pastes_the_partner_s_box_and_counts_its_pixels():
    images = images_of(np.random.default_rng(0), 4)
    mixed = mixing.mix(jnp.float32(1), jnp.array([3, 13, 20, 28]), images.shape[1:3])
    expected = images.copy()
    expected[:, 3:13, 20:28] = images[[1, 0, 3, 2], 3:13, 20:28]
    np.testing.assert_array_equal(mixing.mix_images(jnp.asarray(images), mixed), expected)
    assert float(mixed.label) == pytest.approx(1 - 80 / 560)


@pytest.mark.parametrize("seed", range(8))
def test_mixing_equals_timm_s_for_timm_s_draws(timm, torch, seed, monkeypatch):
    """The whole of it, images and targets; timm's random numbers are recorded where it draws them."""
    from timm.data.mixup import Mixup

    rng = np.random.default_rng(seed)
    images, labels = images_of(rng), rng.integers(0, 7, 6)
    drawn = {"beta": [], "randint": [], "rand": []}
    source = np.random.RandomState(seed)
    for name in drawn:
        monkeypatch.setattr(
            np.random,
            name,
            lambda *a, name=name, **k: drawn[name].append(getattr(source, name)(*a, **k)) or drawn[name][-1],
        )
    mixup = Mixup(0.8, 1.0, prob=0.9, switch_prob=0.5, label_smoothing=0.1, num_classes=7)
    expected, target = mixup(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels))
    size = images.shape[1:3]
    share, box = jnp.float32(1), jnp.zeros(4, jnp.int32)
    if drawn["beta"] and drawn["rand"][1] < 0.5:
        box = mixing.cut_box(size, jnp.float32(drawn["beta"][0]), jnp.array([int(n) for n in drawn["randint"]]))
    elif drawn["beta"]:
        share = jnp.float32(drawn["beta"][0])
    mixed = mixing.mix(share, box, size)
    ordered, back = pairs(images)
    found = np.asarray(mixing.mix_images(jnp.asarray(ordered), mixed))[back]
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    smooth = losses.targets(jnp.asarray(labels[np.argsort(back)]), 7, 0.1)
    np.testing.assert_allclose(np.asarray(mixing.mix_targets(smooth, mixed.label))[back], target.numpy(), atol=1e-6)


def test_draws_mix_as_often_and_as_much_as_they_should():
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: Mixing(0.8, 1.0, 0.9, 0.3).draw(key, (16, 16))))(keys)
    cut, up = np.asarray(found.inside.any((1, 2))), np.asarray(found.share < 1)
    assert not (cut & up).any()
    # Small boxes have no pixel: CutMix leaves a few images as they are.
    assert up.mean() == pytest.approx(0.9 * 0.7, abs=0.025)
    assert cut.mean() == pytest.approx(0.9 * 0.3, abs=0.025)
    shares = np.asarray(found.share)[up]
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    # Beta(a, a) has variance 1 / (4 (2a + 1)).
    assert shares.var() == pytest.approx(1 / (4 * 2.6), rel=0.06)
    np.testing.assert_allclose(
        found.label, np.where(cut, 1 - np.asarray(found.inside).mean((1, 2)), found.share), atol=1e-6
    )
    off = Mixing(0.0, 0.0).draw(keys[0], (4, 4))
    assert (float(off.share), bool(off.inside.any()), float(off.label)) == (1.0, False, 1.0)


def test_erasing_boxes_have_timm_s_areas_and_shapes():
    size = (64, 48)
    boxes = np.asarray(
        jax.jit(lambda key: mixing.erasing_boxes(key, Rows.resolve(None, 4000), size, 0.25))(jax.random.key(1))
    )
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    erased = height > 0
    assert erased.mean() == pytest.approx(0.25, abs=0.025)
    assert (boxes[:, [0, 2]] >= 0).all()
    assert (boxes[:, 1] <= size[0]).all()
    assert (boxes[:, 3] <= size[1]).all()
    assert (height[erased] < size[0]).all()
    assert (width[erased] < size[1]).all()
    area = (height * width)[erased] / (size[0] * size[1])
    assert area.min() > 0.015
    assert area.max() < 1 / 3 + 0.02
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    aspect = np.log(height[erased] / width[erased])
    assert np.abs(aspect).max() < -np.log(0.3) + 0.2
    # Half of the boxes that fit touch the upper half with their corner, and so on: uniform.
    assert (boxes[erased, 0] / (size[0] - height[erased])).mean() == pytest.approx(0.5, abs=0.03)


def test_erasing_equals_timm_s_for_timm_s_draws(timm, torch, monkeypatch):
    """timm's boxes and noise, given to ours, make timm's image."""
    import random

    from timm.data.random_erasing import RandomErasing

    rng = np.random.default_rng(0)
    images = images_of(rng, 8)
    noise, boxes = [], []
    monkeypatch.setattr(
        "timm.data.random_erasing._get_pixels", lambda a, b, shape, **_: noise.append(torch.randn(shape)) or noise[-1]
    )
    source = random.Random(3)
    monkeypatch.setattr(random, "random", source.random)
    monkeypatch.setattr(random, "uniform", source.uniform)
    placed = []
    monkeypatch.setattr(random, "randint", lambda a, b: placed.append(source.randint(a, b)) or placed[-1])
    expected, filled = [], np.zeros_like(images)
    for index, image in enumerate(images):
        before = len(noise)
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        expected.append(RandomErasing(0.5, mode="pixel", device="cpu")(tensor).numpy().transpose(1, 2, 0))
        box = [0, 0, 0, 0]
        if len(noise) > before:
            top, left = placed[-2:]
            block = noise[-1].numpy().transpose(1, 2, 0)
            box = [top, top + block.shape[0], left, left + block.shape[1]]
            filled[index, box[0] : box[1], box[2] : box[3]] = block
        boxes.append(box)
    assert 0 < len(noise) < 8
    np.testing.assert_array_equal(
        mixing.erase(jnp.asarray(images), jnp.array(boxes), jnp.asarray(filled)), np.stack(expected)
    )


def test_erased_pixels_are_noise_and_the_others_untouched():
    images = jnp.full((64, 32, 32, 3), 7.0)
    erased = np.asarray(jax.jit(lambda key: mixing.random_erasing(key, images, 1.0))(jax.random.key(0)))
    changed = erased != 7
    assert (changed.any((1, 2, 3))).mean() > 0.95
    assert erased[changed].mean() == pytest.approx(0, abs=0.03)
    assert erased[changed].std() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(mixing.random_erasing(jax.random.key(0), images, 0.0), images)


def test_what_a_row_is_erased_by_depends_on_its_number_alone():
    images = jnp.asarray(images_of(np.random.default_rng(0), 8))
    key = jax.random.key(2)
    whole = mixing.random_erasing(key, images, 0.7)
    part = mixing.random_erasing(key, images[4:], 0.7, Rows(jnp.array([4, 5, 6, 7]), 8))
    np.testing.assert_array_equal(part, whole[4:])

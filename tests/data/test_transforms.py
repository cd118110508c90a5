"""Tests of the transforms against reference implementations on Pillow and NumPy primitives."""

import hashlib
import math
import os
import pickle
import subprocess
import sys
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from tcvit_jax.data import Augmentation, EvalTransform, Operation, TrainTransform, transforms
from tcvit_jax.data.crops import center_crop, covering_size, random_box
from tcvit_jax.errors import InputError
from tcvit_jax.models import create_model, zoo
from tcvit_jax.ops.images import normalize
from tests import golden

no_deadline = settings(deadline=None)  # A shared machine may pause for longer than any deadline.

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)
CHANNELS = st.sampled_from([1, 3])
SEEDS = st.integers(0, 2**32 - 1)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def with_channel_axis(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], -1)


def reference_eval(image: np.ndarray, side: int, crop_pct: float, interpolation: str) -> np.ndarray:
    """Return torchvision's Resize(int) and CenterCrop; Pillow's crop is zero outside the image."""
    pillow = Image.fromarray(image)
    short, long = sorted(pillow.size)
    scale = math.floor(side / crop_pct)
    other = int(scale * long / short)
    width, height = (scale, other) if pillow.width <= pillow.height else (other, scale)
    resized_image = pillow.resize((width, height), FILTERS[interpolation])
    if width < side or height < side:  # torchvision pads before cropping.
        left, top = (max(side - length, 0) // 2 for length in (width, height))
        padded_image = Image.new("RGB", (max(side, width), max(side, height)))
        padded_image.paste(resized_image, (left, top))
        resized_image = padded_image
    left, top = (round((length - side) / 2.0) for length in resized_image.size)
    return np.asarray(resized_image.crop((left, top, left + side, top + side)))


def translate(image: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


@no_deadline
@given(SIDES, SIDES, SIDES, st.sampled_from([0.875, 0.9, 0.95, 1.0, 1.3]), st.sampled_from(sorted(FILTERS)))
def test_square_eval_transform_equals_torchvision(h: int, w: int, side: int, crop_pct: float, kind: str) -> None:
    if math.floor(side / crop_pct) < 1:
        return  # torchvision cannot resize to zero pixels.
    image = noise(h, w)
    result = EvalTransform((side, side), crop_pct=crop_pct, interpolation=kind)(image)
    np.testing.assert_array_equal(result, reference_eval(image, side, crop_pct, kind))


@pytest.mark.parametrize(("h", "w"), [(375, 500), (500, 375), (300, 300), (60, 700)])
def test_imagenet_eval_transform_equals_torchvision(h: int, w: int) -> None:
    image = noise(h, w)
    result = EvalTransform((224, 224))(image)
    np.testing.assert_array_equal(result, reference_eval(image, 224, 0.9, "bicubic"))


@no_deadline
@given(SIZES, SIZES, st.floats(0.5, 1.0))
def test_rectangular_eval_transform_needs_no_padding(image_size: Any, size: Any, crop_pct: float) -> None:
    white_image = np.full((*image_size, 3), 255, np.uint8)
    result = EvalTransform(size, crop_pct=crop_pct)(white_image)
    assert result.shape == (*size, 3)
    assert np.all(result == 255), "the result contains padding"


def full_resize(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Resize the full image, then crop it."""
    target = tuple(max(1, math.floor(side / transform.crop_pct)) for side in transform.size)
    if transform.crop_mode == "center":
        target = covering_size(image.shape[:2], target)
    pillow = Image.fromarray(image if transform.channels == 3 else image[..., 0])
    resized_image = pillow.resize(target[::-1], FILTERS[transform.interpolation])
    return center_crop(with_channel_axis(resized_image), transform.size)


def eval_transforms(channels: int) -> st.SearchStrategy[EvalTransform]:
    return st.builds(
        EvalTransform, st.tuples(st.integers(2, 12), st.integers(2, 12)), st.just(channels), st.floats(0.3, 1.6),
        st.sampled_from(["bicubic", "bilinear"]), st.sampled_from(["center", "squash"]),
    )  # fmt: skip


@no_deadline
@given(st.integers(1, 50), st.integers(1, 50), CHANNELS.flatmap(eval_transforms))
def test_ordinary_images_are_resized_in_full(h: int, w: int, transform: EvalTransform) -> None:
    image = noise(h, w, transform.channels)
    np.testing.assert_array_equal(transform(image), full_resize(image, transform))


def strip(short: int, long: int, is_tall: bool, channels: int, seed: int) -> np.ndarray:
    """Return noise of low contrast, which no filter takes out of range."""
    size = (long, short) if is_tall else (short, long)
    return noise(*size, channels, seed) // 4 + 96


@no_deadline
@given(st.integers(1, 4), st.integers(900, 3000), st.booleans(), CHANNELS.flatmap(eval_transforms), SEEDS)
def test_strips_are_resized_as_if_in_full(h: int, w: int, is_tall: bool, transform: EvalTransform, seed: int) -> None:
    image = strip(h, w, is_tall, transform.channels, seed)
    with mock.patch.object(transforms, "_PHOTO_PIXELS", 0):
        actual = transform(image)
    np.testing.assert_allclose(actual.astype(int), full_resize(image, transform).astype(int), rtol=0, atol=2)


@no_deadline
@given(st.integers(1, 4), st.integers(900, 3000), st.booleans(), st.sampled_from(["bicubic", "bilinear"]))
def test_training_transform_resizes_strips_as_if_in_full(h: int, w: int, is_tall: bool, kind: str) -> None:
    image = strip(h, w, is_tall, 3, 0)
    transform = TrainTransform((9, 12), interpolation=kind, mode="shift", shift=0)
    expected = np.asarray(Image.fromarray(image).resize((12, 9), FILTERS[kind])).astype(int)
    with mock.patch.object(transforms, "_PHOTO_PIXELS", 0):
        actual = transform(image, np.random.default_rng(0))
    np.testing.assert_allclose(actual.astype(int), expected, rtol=0, atol=2)


def test_memory_of_strips_is_limited_by_the_image_and_the_result() -> None:
    """The resized images would take 5 GB to 20 TB."""
    code = """if True:
        import resource
        import numpy as np
        from PIL import Image
        from tcvit_jax.data import EvalTransform, TrainTransform

        options = [{}, {"crop_mode": "squash"}, {"crop_pct": 2.5}, {"crop_pct": 1e-4}, {"crop_pct": 1e-4, "crop_mode": "squash"}]
        transforms = [EvalTransform((224, 192), **each) for each in options]
        EvalTransform((8, 8))(Image.new("RGB", (9, 9)))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
        for size in ((16_000, 2), (2, 16_000), (65_000, 2), (2, 65_000), (1, 65_535)):
            image = Image.new("RGB", size, (200, 30, 10))
            for transform in transforms:
                values = np.unique(transform(image).reshape(-1, 3), axis=0).tolist()
                assert [200, 30, 10] in values and all(each in ([200, 30, 10], [0, 0, 0]) for each in values), values
            for mode in ("crop", "shift"):
                TrainTransform((224, 192), mode=mode)(image, np.random.default_rng(0))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert process.returncode == 0, process.stderr


def test_rectangular_eval_transform_keeps_aspect_ratio() -> None:
    # A 40x100 image is resized to 20x50, which covers 20x30, and the center 30 columns are kept.
    image = noise(40, 100)
    resized_image = np.asarray(Image.fromarray(image).resize((50, 20), FILTERS["bicubic"]))
    np.testing.assert_array_equal(EvalTransform((20, 30), crop_pct=1.0)(image), resized_image[:, 10:40])


@no_deadline
@given(SIZES, SIZES, CHANNELS, CHANNELS, st.sampled_from(["crop", "shift"]), SEEDS)
def test_transforms_return_requested_size_and_channels(
    image_size: Any, size: Any, image_channels: int, channels: int, mode: str, seed: int
) -> None:
    image = noise(*image_size, image_channels)
    eval_result = EvalTransform(size, channels=channels)(image)
    train_result = TrainTransform(size, channels=channels, mode=mode)(image, np.random.default_rng(seed))
    for result in (eval_result, train_result):
        assert result.shape == (*size, channels) and result.dtype == np.uint8


def test_gray_is_repeated_and_color_is_converted_by_itu_601() -> None:
    gray, color = noise(12, 12, 1), noise(12, 12, 3)
    result = EvalTransform((12, 12), channels=3, crop_pct=1.0)(gray)
    np.testing.assert_array_equal(result, np.repeat(gray, 3, axis=2))
    weights = np.array([299, 587, 114]) / 1000
    result = EvalTransform((12, 12), channels=1, crop_pct=1.0)(color)
    np.testing.assert_allclose(result[..., 0], color @ weights, atol=1)


@no_deadline
@given(SIZES, CHANNELS, st.integers(0, 5), SEEDS)
def test_shift_is_a_translation(size: Any, channels: int, shift: int, seed: int) -> None:
    image = noise(9, 7, channels)
    resized_image = TrainTransform(size, channels=channels, mode="shift", shift=0)(image, np.random.default_rng(0))
    pillow = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size[::-1], FILTERS["bicubic"])
    np.testing.assert_array_equal(resized_image, with_channel_axis(pillow))
    result = TrainTransform(size, channels=channels, mode="shift", shift=shift)(image, np.random.default_rng(seed))
    steps = range(-shift, shift + 1)
    candidates = (translate(resized_image, down, right) for down in steps for right in steps)
    assert any(np.array_equal(result, candidate) for candidate in candidates)


def test_shift_directions_are_equally_likely() -> None:
    image = np.zeros((3, 3, 1), np.uint8)
    image[1, 1] = 255
    transform = TrainTransform((3, 3), channels=1, mode="shift")
    rng = np.random.default_rng(0)
    count = 4500
    hits = sum((transform(image, rng) > 0).astype(float) for _ in range(count))[..., 0]
    np.testing.assert_allclose(hits, count / 9, atol=5 * math.sqrt(count / 9))


@no_deadline
@given(st.integers(1, 60), st.integers(1, 60), SEEDS)
def test_crop_is_a_box_of_the_image(height: int, width: int, seed: int) -> None:
    # Red is the column and green the row of each pixel, so that the result reveals its box.
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    transform = TrainTransform((8, 8), flip=0, interpolation="bilinear")
    result = transform(image, np.random.default_rng(seed)).astype(int)
    assert np.all(np.diff(result[..., 0], axis=1) >= 0) and np.all(np.diff(result[..., 1], axis=0) >= 0)
    assert result[..., 0].max() < width and result[..., 1].max() < height


def visible_box(transform: TrainTransform, size: tuple[int, int], seed: int) -> tuple[float, float]:
    """Return the (width, height) of the crop, measured on a ramp image with a transform to 2x2 pixels."""
    height, width = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width), np.arange(height)[:, None]
    result = transform(ramp, np.random.default_rng(seed)).astype(float)
    # The two antialiased samples are half a box from each other, or slightly less because their filters overlap.
    return 2 * np.ptp(result[..., 0]), 2 * np.ptp(result[..., 1])


def test_crops_vary_in_area_and_aspect_ratio() -> None:
    transform = TrainTransform((2, 2), flip=0, interpolation="bilinear")
    boxes = np.array([visible_box(transform, (200, 200), seed) for seed in range(400)])
    # The overlap shrinks both sides by the same factor: the ratio is exact, the area is proportional.
    ratio, area = boxes[:, 0] / boxes[:, 1], boxes.prod(axis=1) / 200**2
    assert 0.70 < ratio.min() < 0.80 and 1.25 < ratio.max() < 1.42
    assert abs(np.log(ratio).mean()) < 0.03
    assert area.max() / area.min() > 8
    assert area.min() < 0.1


def test_full_crop_without_flip_only_resizes() -> None:
    image = noise(30, 30)
    transform = TrainTransform((16, 16), flip=0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    expected = np.asarray(Image.fromarray(image).resize((16, 16), FILTERS["bicubic"]))
    np.testing.assert_array_equal(transform(image, np.random.default_rng(0)), expected)
    flipped = TrainTransform((16, 16), flip=1, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(flipped(image, np.random.default_rng(0)), expected[:, ::-1])


def test_elongated_image_falls_back_to_center_crop() -> None:
    image = noise(3, 90)
    transform = TrainTransform((3, 4), flip=0, scale=(1.0, 1.0))
    result = transform(image, np.random.default_rng(0))
    np.testing.assert_array_equal(result, image[:, 43:47])


def test_half_of_the_crops_are_flipped() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    transform = TrainTransform((8, 8), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    rng = np.random.default_rng(0)
    flips = sum(int(transform(image, rng)[0, 0, 0] == 255) for _ in range(1000))
    assert abs(flips - 500) < 80


@no_deadline
@given(SEEDS, st.sampled_from(["crop", "shift"]))
def test_result_depends_only_on_the_generator(seed: int, mode: str) -> None:
    image, transform = noise(20, 30), TrainTransform((16, 16), mode=mode)
    copy = pickle.loads(pickle.dumps(transform))
    first, second = (t(image, np.random.default_rng(seed)) for t in (transform, copy))
    np.testing.assert_array_equal(first, second)


# Digests of results from earlier versions, so that interrupted runs resume identically.
GOLDEN_DIGESTS = {
    "crop/1/1/bicubic": "d3284b391b9021c9",
    "crop/1/1/bilinear": "fe34fceba3cc0d46",
    "crop/1/3/bicubic": "b10c4687ffa67a6b",
    "crop/1/3/bilinear": "4a8ac3e769c9e975",
    "crop/3/1/bicubic": "931ae8cf2a872a3f",
    "crop/3/1/bilinear": "1156c33dcf6e6ef2",
    "crop/3/3/bicubic": "d0daaa625bd0b304",
    "crop/3/3/bilinear": "d3e5911ac3903617",
    "shift/1/1/bicubic": "791e5769c7fc13be",
    "shift/1/1/bilinear": "90940318e9bb04f3",
    "shift/1/3/bicubic": "bf6f42a04bea9263",
    "shift/1/3/bilinear": "094d420282c0d03d",
    "shift/3/1/bicubic": "7866bb48c3a2a2cb",
    "shift/3/1/bilinear": "d084e9673a8752ff",
    "shift/3/3/bicubic": "c69c7efb5266d5c4",
    "shift/3/3/bilinear": "c24d2c2cebe0fad1",
}


@pytest.mark.parametrize("case", GOLDEN_DIGESTS)
def test_augmentation_matches_golden_digests(case: str) -> None:
    mode, channels, image_channels, interpolation = case.split("/")
    transform = TrainTransform((16, 12), int(channels), interpolation, mode, 2)
    digest = hashlib.sha256()
    for seed in range(20):
        for size in ((30, 41), (41, 30), (3, 90), (1, 1)):
            digest.update(transform(noise(*size, int(image_channels)), np.random.default_rng(seed)).tobytes())
    assert digest.hexdigest()[:16] == GOLDEN_DIGESTS[case]


@no_deadline
@given(
    SIZES,
    CHANNELS,
    CHANNELS,
    st.sampled_from(["crop", "shift"]),
    st.sampled_from(["bilinear", "random"]),
    st.sampled_from([{}, {"color_jitter": 0.5}, {"auto_augment": "rand-n4-mstd3-p0.9-inc1"}]),
    SEEDS,
)
def test_call_equals_draw_and_apply(
    image_size: Any, image_channels: int, channels: int, mode: str, kind: str, colors: dict[str, Any], seed: int
) -> None:
    image = noise(*image_size, image_channels)
    transform = TrainTransform((9, 14), channels, kind, mode, shift=3, **colors)
    augmentation = pickle.loads(pickle.dumps(transform.draw(image_size, np.random.default_rng(seed))))
    result = pickle.loads(pickle.dumps(transform)).apply(image, augmentation)
    assert result.shape == (9, 14, channels) and result.dtype == np.uint8
    np.testing.assert_array_equal(transform(image, np.random.default_rng(seed)), result)


def test_sampled_box_and_flip_apply_to_a_map() -> None:
    # The map has twice the resolution of the image, so its box is scaled by two.
    label_map = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)[..., None]
    image = label_map[::2, ::2]
    transform = TrainTransform((12, 12), channels=1, interpolation="bilinear", ratio=(1.0, 1.0))
    for seed in range(20):
        augmentation = transform.draw((20, 30), np.random.default_rng(seed))
        left, top, right, bottom = (2 * side for side in augmentation.box)
        map_crop = Image.fromarray(label_map[top:bottom, left:right, 0]).resize((12, 12), FILTERS["bilinear"])
        expected = np.asarray(map_crop)[:, ::-1] if augmentation.flip else np.asarray(map_crop)
        # The centers of the two grids differ by half a pixel of the image along each axis.
        np.testing.assert_allclose(transform.apply(image, augmentation)[..., 0], expected, rtol=0, atol=3)


def test_memory_layout_of_array_does_not_matter() -> None:
    image, augmentation = noise(30, 40), Augmentation((3, 5, 33, 30))
    transform = TrainTransform((8, 8))
    expected = transform.apply(image, augmentation)
    read_only = image.copy()
    read_only.flags.writeable = False
    for equal_image in (np.asfortranarray(image), read_only, np.repeat(image, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(transform.apply(equal_image, augmentation), expected)


@no_deadline
@given(
    SIZES,
    CHANNELS,
    CHANNELS,
    st.sampled_from(["crop", "shift"]),
    st.sampled_from([{}, {"color_jitter": 0.5}, {"auto_augment": "rand-n4-mstd3-p0.9-inc1"}]),
    SEEDS,
)
def test_pillow_images_and_arrays_give_equal_results(
    image_size: Any, image_channels: int, channels: int, mode: str, colors: dict[str, Any], seed: int
) -> None:
    image = noise(*image_size, image_channels, seed)
    pillow = Image.fromarray(image[..., 0] if image_channels == 1 else image)
    eval_transform = EvalTransform((9, 14), channels)
    train_transform = TrainTransform((9, 14), channels, mode=mode, **colors)
    np.testing.assert_array_equal(eval_transform(pillow), eval_transform(image))
    first, second = (train_transform(one, np.random.default_rng(seed)) for one in (pillow, image))
    np.testing.assert_array_equal(first, second)
    # Neither transform modifies the image.
    np.testing.assert_array_equal(with_channel_axis(pillow), image)


def test_operations_are_applied_after_the_flip() -> None:
    image, operations = noise(16, 16), (Operation("TranslateX", 0.25, "bilinear"),)
    transform = TrainTransform((16, 16), mean=(0.0,))
    result = transform.apply(image, Augmentation((0, 0, 16, 16), True, operations=operations))
    np.testing.assert_array_equal(result[:, :12], image[:, ::-1][:, 4:])
    assert not result[:, 12:].any()


def test_color_jitter_does_not_change_the_geometry() -> None:
    image = noise(40, 30)
    plain_transform, jitter_transform = TrainTransform((16, 16)), TrainTransform((16, 16), color_jitter=0.4)
    first, second = (one.draw((40, 30), np.random.default_rng(3)) for one in (plain_transform, jitter_transform))
    assert (first.box, first.flip) == (second.box, second.flip) and not first.operations
    assert sorted(operation.name for operation in second.operations) == ["Brightness", "Color", "Contrast"]
    assert not np.array_equal(plain_transform.apply(image, first), jitter_transform.apply(image, second))


def test_random_interpolation_samples_bilinear_or_bicubic() -> None:
    transform, image = TrainTransform((8, 8), interpolation="random"), noise(20, 20)
    rng = np.random.default_rng(0)
    kinds = [transform.draw((20, 20), rng).resampling for _ in range(1000)]
    assert set(kinds) == set(FILTERS) and abs(kinds.count("bilinear") - 500) < 80
    for kind in FILTERS:
        result = transform.apply(image, Augmentation((2, 3, 17, 20), resampling=kind))
        expected = Image.fromarray(image).crop((2, 3, 17, 20)).resize((8, 8), FILTERS[kind])
        np.testing.assert_array_equal(result, np.asarray(expected))


def test_random_boxes_have_requested_area_and_aspect_ratio() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((500, 500), (0.1, 0.5), (0.5, 2.0), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, log_ratio = widths * heights / 500**2, np.log2(widths / heights)
    for values, low, high in ((area, 0.1, 0.5), (log_ratio, -1, 1)):
        # Area and logarithm of the ratio are uniform. Every box of these fits, so that none is rejected.
        assert low - 0.02 <= values.min() and values.max() <= high + 0.02
        assert abs(values.mean() - (low + high) / 2) < (high - low) / 50
        assert abs(values.std() - (high - low) / math.sqrt(12)) < (high - low) / 50
    centers = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    assert all(abs(center.mean() - 250) < 10 for center in centers)


def test_random_boxes_equal_timm_for_equal_draws(timm: Any) -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    for seed in range(300):
        width, height = np.random.default_rng([seed, 1]).integers(1, 120, size=2).tolist()
        scale, ratio = ((0.08, 1.0), (3 / 4, 4 / 3)) if seed % 2 else ((0.9, 1.0), (1.1, 1.3))
        timm_random = mock.Mock(uniform=np.random.default_rng(seed).uniform, randint=lambda low, high: 0)
        with mock.patch("timm.data.transforms.random", timm_random):
            image = Image.new("RGB", (width, height))
            top, left, rows, columns = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
        box = random_box((height, width), scale, ratio, np.random.default_rng(seed))
        if 0 in (rows, columns):
            continue  # timm returns an empty box.
        assert (box[2] - box[0], box[3] - box[1]) == (columns, rows)
        # With no box that fits, both return the center box.
        assert (left, top) in ((0, 0), box[:2])


@pytest.mark.parametrize("transform", [EvalTransform, TrainTransform])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik': did you mean 'bicubic'?"),
        ({"channels": 4}, "channels=4: must be"),
        ({"size": (0, 8)}, r"size=\(0, 8\): must be"),
    ],
)
def test_invalid_common_options_are_rejected(transform: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        transform(**({"size": (8, 8)} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "shfit"}, "unknown augmentation mode 'shfit': did you mean 'shift'?"),
        ({"shift": -1}, "shift=-1: must be"),
        ({"flip": 2}, r"flip=2: must be in \[0, 1\]; it is a probability"),
        ({"scale": (0.5, 0.1)}, "scale=.*: must be"),
        ({"ratio": (0.0, 1.0)}, "ratio=.*: must be"),
        ({"interpolation": "randm"}, "unknown interpolation 'randm': did you mean 'random'?"),
        ({"color_jitter": -0.1}, "color_jitter=-0.1: must be >= 0"),
        ({"mean": (0.5, 0.5)}, "mean=.*: must be one or three values"),
        ({"mean": (128.0,)}, "mean=.*: must be one or three values"),
        (
            {"color_jitter": 0.4, "auto_augment": "rand-m9-inc1"},
            "color_jitter=0.4 cannot be combined with auto_augment='rand-m9-inc1': set color_jitter=0 or",
        ),
    ],
)
def test_invalid_training_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        TrainTransform((8, 8), **options)
    assert "\n" not in str(error.value)


def test_eval_transform_rejects_random_interpolation() -> None:
    with pytest.raises(InputError, match="unknown interpolation 'random'"):
        EvalTransform((8, 8), interpolation="random")


@pytest.mark.parametrize(("crop_mode", "width", "left"), [("center", 22, (4, 4)), ("squash", 17, (2, 1))])
def test_resize_is_a_length_in_pixels(crop_mode: str, width: int, left: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (53, 71, 3), dtype=np.uint8)
    resized_image = np.asarray(Image.fromarray(image).resize((width, 17), Image.Resampling.BICUBIC))
    for rounding, row, column in (("even", 2, left[0]), ("floor", 1, left[1])):
        transform = EvalTransform((14, 14), crop_mode=crop_mode, resize=17, crop_rounding=rounding)
        np.testing.assert_array_equal(transform(image), resized_image[row : row + 14, column : column + 14])
    for options, message in (
        ({"resize": 0}, "resize=0: must be >= 1"),
        ({"crop_rounding": "up"}, "unknown crop_rounding"),
    ):
        with pytest.raises(InputError, match=message):
            EvalTransform((8, 8), **options)


def test_zero_crop_pct_is_rejected() -> None:
    with pytest.raises(InputError, match="crop_pct=0: must be > 0"):
        EvalTransform((8, 8), crop_pct=0)


PHOTOS, PHOTO_ARRAYS = golden.read("photos")


@pytest.mark.parametrize("photo", ["china", "flower"])
@pytest.mark.parametrize("case", PHOTOS["cases"])
def test_eval_transform_equals_golden_timm_photos(photo: str, case: str) -> None:
    options = PHOTOS["cases"][case]
    transform = EvalTransform(
        tuple(options["input_size"][1:]),
        crop_pct=options["crop_pct"],
        interpolation=options["interpolation"],
        crop_mode=options["crop_mode"],
    )
    result = transform(load_sample_image(f"{photo}.jpg"))
    np.testing.assert_array_equal(result, PHOTO_ARRAYS[f"{photo}/{case}"])


@pytest.mark.parametrize("name", zoo.ZOO)
def test_preprocessing_of_every_model_equals_timm(timm: Any, name: str) -> None:
    """Resized and cropped images are equal; normalized images agree to float32 precision."""
    if name.startswith("lvvit"):
        pytest.skip("timm has no LV-ViT")
    photo = load_sample_image("flower.jpg")
    entry, size = zoo.ZOO[name], create_model(name).img_size
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**config)(Image.fromarray(photo)).numpy().transpose(1, 2, 0)
    crop = entry.preprocessing
    result = EvalTransform(size, 3, crop.crop_pct, crop.interpolation, crop.crop_mode)(photo)
    levels = np.rint((expected * np.asarray(crop.std) + np.asarray(crop.mean)) * 255)
    np.testing.assert_array_equal(result, levels.astype(np.uint8))
    np.testing.assert_allclose(
        normalize(jnp.asarray(result[None]), crop.mean, crop.std)[0], expected, rtol=0, atol=1e-6
    )


def test_unknown_crop_mode_is_rejected() -> None:
    with pytest.raises(InputError, match="unknown crop_mode 'squish': did you mean 'squash'"):
        EvalTransform((8, 8), crop_mode="squish")

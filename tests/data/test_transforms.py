"""Tests of the transforms against rules written out plainly on Pillow and NumPy primitives."""

import hashlib
import math
import pickle
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from tcvit_jax.data import Augmentation, EvalTransform, Operation, TrainTransform
from tcvit_jax.data.crops import random_box
from tcvit_jax.errors import InputError
from tcvit_jax.models import create_model, zoo
from tcvit_jax.ops.images import normalize
from tests import golden

untimed = settings(deadline=None)  # a shared machine may pause for longer than any deadline

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)
CHANNELS = st.sampled_from([1, 3])
SEEDS = st.integers(0, 2**32 - 1)
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def with_channel_axis(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], -1)


def reference_eval(image: np.ndarray, side: int, crop_pct: float, interpolation: str) -> np.ndarray:
    """torchvision's Resize(int) and CenterCrop; Pillow's crop gives zeros outside of the image."""
    pillow = Image.fromarray(image)
    short, long = sorted(pillow.size)
    scale = math.floor(side / crop_pct)
    other = int(scale * long / short)
    width, height = (scale, other) if pillow.width <= pillow.height else (other, scale)
    resized = pillow.resize((width, height), PILLOW[interpolation])
    if width < side or height < side:  # torchvision pads first
        left, top = (max(side - length, 0) // 2 for length in (width, height))
        padded = Image.new("RGB", (max(side, width), max(side, height)))
        padded.paste(resized, (left, top))
        resized = padded
    left, top = (round((length - side) / 2.0) for length in resized.size)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def move_pixel_by_pixel(image: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[row, column] = image[row - down, column - right]
    return result


@untimed
@given(SIDES, SIDES, SIDES, st.sampled_from([0.875, 0.9, 0.95, 1.0, 1.3]), st.sampled_from(sorted(PILLOW)))
def test_square_evaluation_is_torchvisions(h: int, w: int, side: int, crop_pct: float, kind: str) -> None:
    if math.floor(side / crop_pct) < 1:
        return  # torchvision has no answer for an image of no pixels
    image = noise(h, w)
    result = EvalTransform((side, side), crop_pct=crop_pct, interpolation=kind)(image)
    np.testing.assert_array_equal(result, reference_eval(image, side, crop_pct, kind))


@pytest.mark.parametrize(("h", "w"), [(375, 500), (500, 375), (300, 300), (60, 700)])
def test_imagenet_evaluation_is_torchvisions(h: int, w: int) -> None:
    image = noise(h, w)
    result = EvalTransform((224, 224))(image)
    np.testing.assert_array_equal(result, reference_eval(image, 224, 0.9, "bicubic"))


@untimed
@given(SIZES, SIZES, st.floats(0.5, 1.0))
def test_rectangular_evaluation_covers_the_crop(image_size: Any, size: Any, crop_pct: float) -> None:
    white = np.full((*image_size, 3), 255, np.uint8)
    result = EvalTransform(size, crop_pct=crop_pct)(white)
    assert result.shape == (*size, 3)
    assert np.all(result == 255), "zeros of padding got in"


def test_rectangular_evaluation_keeps_the_aspect_ratio() -> None:
    # 40x100 to 20x30 with everything kept: covering 30 wide needs 20x50, of which the middle 30 stay.
    image = noise(40, 100)
    resized = np.asarray(Image.fromarray(image).resize((50, 20), PILLOW["bicubic"]))
    np.testing.assert_array_equal(EvalTransform((20, 30), crop_pct=1.0)(image), resized[:, 10:40])


@untimed
@given(SIZES, SIZES, CHANNELS, CHANNELS, st.sampled_from(["crop", "shift"]), SEEDS)
def test_results_have_the_wanted_shape(
    image_size: Any, size: Any, given_channels: int, channels: int, mode: str, seed: int
) -> None:
    image = noise(*image_size, given_channels)
    evaluated = EvalTransform(size, channels=channels)(image)
    trained = TrainTransform(size, channels=channels, mode=mode)(image, np.random.default_rng(seed))
    for result in (evaluated, trained):
        assert result.shape == (*size, channels) and result.dtype == np.uint8


def test_grey_becomes_colour_by_repetition_and_colour_grey_by_itu_601() -> None:
    gray, color = noise(12, 12, 1), noise(12, 12, 3)
    same = EvalTransform((12, 12), channels=3, crop_pct=1.0)(gray)
    np.testing.assert_array_equal(same, np.repeat(gray, 3, axis=2))
    weights = np.array([299, 587, 114]) / 1000
    result = EvalTransform((12, 12), channels=1, crop_pct=1.0)(color)
    np.testing.assert_allclose(result[..., 0], color @ weights, atol=1)


@untimed
@given(SIZES, CHANNELS, st.integers(0, 5), SEEDS)
def test_shift_moves_every_pixel_alike(size: Any, channels: int, shift: int, seed: int) -> None:
    image = noise(9, 7, channels)
    still = TrainTransform(size, channels=channels, mode="shift", shift=0)(image, np.random.default_rng(0))
    pillow = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size[::-1], PILLOW["bicubic"])
    np.testing.assert_array_equal(still, with_channel_axis(pillow))
    moved = TrainTransform(size, channels=channels, mode="shift", shift=shift)(image, np.random.default_rng(seed))
    steps = range(-shift, shift + 1)
    candidates = (move_pixel_by_pixel(still, down, right) for down in steps for right in steps)
    assert any(np.array_equal(moved, candidate) for candidate in candidates)


def test_shift_reaches_every_direction_equally() -> None:
    image = np.zeros((3, 3, 1), np.uint8)
    image[1, 1] = 255
    transform = TrainTransform((3, 3), channels=1, mode="shift")
    rng = np.random.default_rng(0)
    count = 4500
    heat = sum((transform(image, rng) > 0).astype(float) for _ in range(count))[..., 0]
    np.testing.assert_allclose(heat, count / 9, atol=5 * math.sqrt(count / 9))


@untimed
@given(st.integers(1, 60), st.integers(1, 60), SEEDS)
def test_crops_show_a_box_of_the_image(height: int, width: int, seed: int) -> None:
    # Red counts columns and green counts rows, so the result tells which part of the image it shows.
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    transform = TrainTransform((8, 8), flip=0, interpolation="bilinear")
    result = transform(image, np.random.default_rng(seed)).astype(int)
    assert np.all(np.diff(result[..., 0], axis=1) >= 0) and np.all(np.diff(result[..., 1], axis=0) >= 0)
    assert result[..., 0].max() < width and result[..., 1].max() < height


def visible_box(transform: TrainTransform, size: tuple[int, int], seed: int) -> tuple[float, float]:
    """The (width, height) of the crop, measured in a ramp that a result of two pixels a side shows."""
    height, width = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width), np.arange(height)[:, None]
    result = transform(ramp, np.random.default_rng(seed)).astype(float)
    # Two antialiased samples lie half a box apart, a little less for the filter's reach beyond its half.
    return 2 * np.ptp(result[..., 0]), 2 * np.ptp(result[..., 1])


def test_crops_spread_over_area_and_shape() -> None:
    transform = TrainTransform((2, 2), flip=0, interpolation="bilinear")
    boxes = np.array([visible_box(transform, (200, 200), seed) for seed in range(400)])
    # The filter's reach shrinks both sides by the same factor: the ratio stays, the area is proportional.
    shape, area = boxes[:, 0] / boxes[:, 1], boxes.prod(axis=1) / 200**2
    assert 0.70 < shape.min() < 0.80 and 1.25 < shape.max() < 1.42
    assert abs(np.log(shape).mean()) < 0.03
    assert area.max() / area.min() > 8
    assert area.min() < 0.1


def test_a_full_crop_without_flip_only_resizes() -> None:
    image = noise(30, 30)
    transform = TrainTransform((16, 16), flip=0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    expected = np.asarray(Image.fromarray(image).resize((16, 16), PILLOW["bicubic"]))
    np.testing.assert_array_equal(transform(image, np.random.default_rng(0)), expected)
    flipped = TrainTransform((16, 16), flip=1, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(flipped(image, np.random.default_rng(0)), expected[:, ::-1])


def test_an_image_too_long_for_any_crop_gives_its_middle() -> None:
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


@untimed
@given(SEEDS, st.sampled_from(["crop", "shift"]))
def test_the_generator_decides_alone(seed: int, mode: str) -> None:
    image, transform = noise(20, 30), TrainTransform((16, 16), mode=mode)
    copy = pickle.loads(pickle.dumps(transform))
    first, second = (t(image, np.random.default_rng(seed)) for t in (transform, copy))
    np.testing.assert_array_equal(first, second)


# Of what each transform made before there was more to draw: runs that began then go on as they were.
BEFORE = {
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


@pytest.mark.parametrize("case", BEFORE)
def test_plain_augmentation_is_what_it_always_was(case: str) -> None:
    mode, channels, given_channels, interpolation = case.split("/")
    transform = TrainTransform((16, 12), int(channels), interpolation, mode, 2)
    found = hashlib.sha256()
    for seed in range(20):
        for size in ((30, 41), (41, 30), (3, 90), (1, 1)):
            found.update(transform(noise(*size, int(given_channels)), np.random.default_rng(seed)).tobytes())
    assert found.hexdigest()[:16] == BEFORE[case]


@untimed
@given(
    SIZES,
    CHANNELS,
    CHANNELS,
    st.sampled_from(["crop", "shift"]),
    st.sampled_from(["bilinear", "random"]),
    st.sampled_from([{}, {"color_jitter": 0.5}, {"auto_augment": "rand-n4-mstd3-p0.9-inc1"}]),
    SEEDS,
)
def test_drawing_and_applying_make_the_whole(
    image_size: Any, given_channels: int, channels: int, mode: str, kind: str, colors: dict[str, Any], seed: int
) -> None:
    image = noise(*image_size, given_channels)
    transform = TrainTransform((9, 14), channels, kind, mode, shift=3, **colors)
    drawn = pickle.loads(pickle.dumps(transform.draw(image_size, np.random.default_rng(seed))))
    result = pickle.loads(pickle.dumps(transform)).apply(image, drawn)
    assert result.shape == (9, 14, channels) and result.dtype == np.uint8
    np.testing.assert_array_equal(transform(image, np.random.default_rng(seed)), result)


def test_a_map_can_follow_its_image() -> None:
    # The map is twice as fine as the image: its box is twice the image's, and it is flipped alike.
    labels = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)[..., None]
    image = labels[::2, ::2]
    transform = TrainTransform((12, 12), channels=1, interpolation="bilinear", ratio=(1.0, 1.0))
    for seed in range(20):
        drawn = transform.draw((20, 30), np.random.default_rng(seed))
        left, top, right, bottom = (2 * side for side in drawn.box)
        part = Image.fromarray(labels[top:bottom, left:right, 0]).resize((12, 12), PILLOW["bilinear"])
        expected = np.asarray(part)[:, ::-1] if drawn.flip else np.asarray(part)
        # Half a pixel of the image is the difference between the middles of the two grids, in either direction.
        np.testing.assert_allclose(transform.apply(image, drawn)[..., 0], expected, rtol=0, atol=3)


def test_images_may_lie_in_memory_in_any_way() -> None:
    image, drawn = noise(30, 40), Augmentation((3, 5, 33, 30))
    transform = TrainTransform((8, 8))
    expected = transform.apply(image, drawn)
    apart, fixed = np.asfortranarray(image), image.copy()
    fixed.flags.writeable = False
    for same in (apart, fixed, np.repeat(image, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(transform.apply(same, drawn), expected)


@untimed
@given(
    SIZES,
    CHANNELS,
    CHANNELS,
    st.sampled_from(["crop", "shift"]),
    st.sampled_from([{}, {"color_jitter": 0.5}, {"auto_augment": "rand-n4-mstd3-p0.9-inc1"}]),
    SEEDS,
)
def test_images_of_pillow_are_those_of_arrays(
    image_size: Any, given_channels: int, channels: int, mode: str, colors: dict[str, Any], seed: int
) -> None:
    image = noise(*image_size, given_channels, seed)
    pillow = Image.fromarray(image[..., 0] if given_channels == 1 else image)
    evaluated, trained = EvalTransform((9, 14), channels), TrainTransform((9, 14), channels, mode=mode, **colors)
    np.testing.assert_array_equal(evaluated(pillow), evaluated(image))
    first, second = (trained(one, np.random.default_rng(seed)) for one in (pillow, image))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(with_channel_axis(pillow), image)  # neither wrote into it


def test_operations_come_after_the_flip() -> None:
    image, moved = noise(16, 16), (Operation("TranslateX", 0.25, "bilinear"),)
    transform = TrainTransform((16, 16), mean=(0.0,))
    result = transform.apply(image, Augmentation((0, 0, 16, 16), True, operations=moved))
    np.testing.assert_array_equal(result[:, :12], image[:, ::-1][:, 4:])
    assert not result[:, 12:].any()


def test_colours_alone_leave_the_geometry() -> None:
    image = noise(40, 30)
    plain, jittered = TrainTransform((16, 16)), TrainTransform((16, 16), color_jitter=0.4)
    first, second = (one.draw((40, 30), np.random.default_rng(3)) for one in (plain, jittered))
    assert (first.box, first.flip) == (second.box, second.flip) and not first.operations
    assert sorted(operation.name for operation in second.operations) == ["Brightness", "Color", "Contrast"]
    assert not np.array_equal(plain.apply(image, first), jittered.apply(image, second))


def test_a_random_interpolation_is_one_of_two() -> None:
    transform, image = TrainTransform((8, 8), interpolation="random"), noise(20, 20)
    rng = np.random.default_rng(0)
    kinds = [transform.draw((20, 20), rng).resampling for _ in range(1000)]
    assert set(kinds) == set(PILLOW) and abs(kinds.count("bilinear") - 500) < 80
    for kind in PILLOW:
        result = transform.apply(image, Augmentation((2, 3, 17, 20), resampling=kind))
        expected = Image.fromarray(image).crop((2, 3, 17, 20)).resize((8, 8), PILLOW[kind])
        np.testing.assert_array_equal(result, np.asarray(expected))


def test_drawn_boxes_have_the_area_and_shape_asked_for() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((500, 500), (0.1, 0.5), (0.5, 2.0), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, shape = widths * heights / 500**2, np.log2(widths / heights)
    for values, low, high in ((area, 0.1, 0.5), (shape, -1, 1)):
        # Both uniform, the shape in logarithms; every box of these fits, so that none is drawn again.
        assert low - 0.02 <= values.min() and values.max() <= high + 0.02
        assert abs(values.mean() - (low + high) / 2) < (high - low) / 50
        assert abs(values.std() - (high - low) / math.sqrt(12)) < (high - low) / 50
    middles = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    assert all(abs(middle.mean() - 250) < 10 for middle in middles)


def test_boxes_are_installed_timm_s_for_the_same_numbers(timm: Any) -> None:
    from timm.data.transforms import RandomResizedCropAndInterpolation

    for seed in range(300):
        width, height = np.random.default_rng([seed, 1]).integers(1, 120, size=2).tolist()
        scale, ratio = ((0.08, 1.0), (3 / 4, 4 / 3)) if seed % 2 else ((0.9, 1.0), (1.1, 1.3))
        theirs = mock.Mock(uniform=np.random.default_rng(seed).uniform, randint=lambda low, high: 0)
        with mock.patch("timm.data.transforms.random", theirs):
            picture = Image.new("RGB", (width, height))
            top, left, rows, columns = RandomResizedCropAndInterpolation.get_params(picture, scale, ratio)
        box = random_box((height, width), scale, ratio, np.random.default_rng(seed))
        if 0 in (rows, columns):
            continue  # timm would crop nothing
        assert (box[2] - box[0], box[3] - box[1]) == (columns, rows)
        # Where no crop fitted, both take the middle.
        assert (left, top) in ((0, 0), box[:2])


@pytest.mark.parametrize("transform", [EvalTransform, TrainTransform])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik': did you mean 'bicubic'?"),
        ({"channels": 4}, "channels 4 must be"),
        ({"size": (0, 8)}, r"image size \(0, 8\) must be"),
    ],
)
def test_mistakes_in_common_options(transform: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        transform(**({"size": (8, 8)} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "shfit"}, "unknown augmentation mode 'shfit': did you mean 'shift'?"),
        ({"shift": -1}, "shift -1 must be"),
        ({"flip": 2}, "flip 2 is not a probability"),
        ({"scale": (0.5, 0.1)}, "scale .* must be"),
        ({"ratio": (0.0, 1.0)}, "ratio .* must be"),
        ({"interpolation": "randm"}, "unknown interpolation 'randm': did you mean 'random'?"),
        ({"color_jitter": -0.1}, "color_jitter -0.1 must be 0 or more"),
        ({"mean": (0.5, 0.5)}, "mean .* must be one number or three"),
        ({"mean": (128.0,)}, "mean .* must be one number or three"),
        (
            {"color_jitter": 0.4, "auto_augment": "rand-m9-inc1"},
            "color_jitter 0.4 and auto_augment 'rand-m9-inc1' exclude each other, .*: set color_jitter to 0",
        ),
    ],
)
def test_mistakes_in_training_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TrainTransform((8, 8), **options)
    assert "\n" not in str(caught.value)


def test_evaluation_draws_no_interpolation() -> None:
    with pytest.raises(InputError, match="unknown interpolation 'random'"):
        EvalTransform((8, 8), interpolation="random")


def test_a_crop_pct_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="crop_pct 0 must be above 0"):
        EvalTransform((8, 8), crop_pct=0)


PHOTOS, PHOTO_ARRAYS = golden.read("photos")


@pytest.mark.parametrize("photo", ["china", "flower"])
@pytest.mark.parametrize("case", PHOTOS["cases"])
def test_photographs_are_timm_s_to_the_pixel(photo: str, case: str) -> None:
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
def test_the_preprocessing_of_every_model_is_installed_timm_s(timm: Any, name: str) -> None:
    """Resized and cropped to the gray level, normalized to float32's last digits; skipped where there is no timm."""
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
    np.testing.assert_allclose(normalize(result[None], crop.mean, crop.std)[0], expected, rtol=0, atol=1e-6)


def test_an_unknown_crop_mode_is_refused() -> None:
    with pytest.raises(InputError, match="unknown crop_mode 'squish': did you mean 'squash'"):
        EvalTransform((8, 8), crop_mode="squish")

"""Tests of RandAugment, color jitter and their operations: equal pixels and equal distributions to timm.

`tests/golden/augment.npz` holds outputs of timm 1.0.31 and torchvision 0.29 for small images, for machines without
them. To regenerate it: `python -m tests.data.test_randaugment`.
"""

import json
import math
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from tcvit_jax.data import Augmentation, Operation, RandAugment, TrainTransform
from tcvit_jax.data.operations import NAMES, RESAMPLING_FILTERS, apply, fill_color
from tcvit_jax.data.randaugment import ARGUMENTS, ColorJitter
from tcvit_jax.errors import InputError
from tests import golden

CONFIG = "rand-m9-mstd0.5-inc1"
MEAN, FILL = (0.485, 0.456, 0.406), (124, 116, 104)
# Names of timm where they differ, because timm has several variants of the operation.
TIMM_NAMES = {
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
    **{name: f"{name}Increasing" for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")},
}
GEOMETRIC_OPERATIONS = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SIGNED_OPERATIONS = (*GEOMETRIC_OPERATIONS, "Color", "Contrast", "Brightness", "Sharpness")
MAGNITUDES = (0.0, 0.3, 2.5, 5.0, 8.49, 9.0, 9.99, 10.0, 12.5)
GOLDEN_MAGNITUDES = (3.3, 9.0, 10.0)
BOXES = ((0, 0, 128, 96), (17, 5, 18, 6), (40, 20, 91, 77), (3, 60, 125, 96))
JITTER_FUNCTIONS = {"Brightness": "adjust_brightness", "Contrast": "adjust_contrast", "Color": "adjust_saturation"}


def photo(height: int, width: int) -> np.ndarray:
    image = Image.fromarray(load_sample_image("flower.jpg"))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def apply_to_array(image: np.ndarray, *operations: Operation, fill: tuple[int, ...] = FILL) -> np.ndarray:
    return np.asarray(apply(Image.fromarray(image), operations, fill))


def operation_cases(names: tuple[str, ...], levels: tuple[float, ...]) -> Iterator[tuple[str, float, int, str]]:
    """Yield every distinct (name, magnitude, sign, resampling)."""
    for name in names:
        for magnitude in levels:
            for sign in (1, -1) if name in SIGNED_OPERATIONS else (1,):
                for resampling in RESAMPLING_FILTERS if name in GEOMETRIC_OPERATIONS else ("bicubic",):
                    yield name, magnitude, sign, resampling


def apply_timm(
    image: np.ndarray, name: str, magnitude: float, sign: int, resampling: str, fill: Any = FILL
) -> np.ndarray:
    """Apply timm's operation to an image, with a fixed random sign."""
    from timm.data.auto_augment import AugmentOp

    if name == "Posterize" and magnitude >= 10:
        return np.zeros_like(image)  # timm keeps 0 bits, for which Pillow 13 raises ValueError.
    hparams = {"img_mean": fill, "interpolation": RESAMPLING_FILTERS[resampling], "magnitude_max": 20}
    operation = AugmentOp(TIMM_NAMES.get(name, name), prob=1.0, magnitude=magnitude, hparams=hparams)
    with mock.patch.object(random, "random", return_value=0.9 if sign < 0 else 0.1):
        return np.asarray(operation(Image.fromarray(image)))


@contextmanager
def record_timm_draws() -> Iterator[Callable[[], Augmentation]]:
    """Record the draws of timm; the yielded function returns those since its last call and clears them."""
    from timm.data import auto_augment, transforms
    from torchvision.transforms import functional

    draw: dict[str, Any] = {}
    crop, flip, call, resample = (
        transforms.F.resized_crop,
        functional.hflip,
        auto_augment.AugmentOp.__call__,
        auto_augment._interpolation,
    )
    jitters = {name: getattr(functional, function) for name, function in JITTER_FUNCTIONS.items()}

    def record_crop(image: Any, top: int, left: int, height: int, width: int, size: Any, mode: Any) -> Any:
        draw.update(box=(left, top, left + width, top + height), resampling=mode.value)
        return crop(image, top, left, height, width, size, mode)

    def record_flip(image: Any) -> Any:
        draw["flip"] = True
        return flip(image)

    def record_call(self: Any, image: Any) -> Any:
        function, names = self.aug_fn, {timm_name: name for name, timm_name in TIMM_NAMES.items()}
        resampling: list[str] = []

        def record_resample(options: Any) -> Any:
            timm_filter = resample(options)
            resampling.append(next(name for name, value in RESAMPLING_FILTERS.items() if value == timm_filter))
            return timm_filter

        def record_operation(image: Any, *arguments: Any, **options: Any) -> Any:
            with mock.patch.object(auto_augment, "_interpolation", record_resample):
                result = function(image, *arguments, **options)
            argument = arguments[0] if arguments else 0.0
            draw["operations"].append(Operation(names.get(self.name, self.name), argument, *resampling))
            return result

        self.aug_fn = record_operation
        try:
            return call(self, image)
        finally:
            self.aug_fn = function

    def record_jitter(name: str) -> Callable[..., Any]:
        def adjust(image: Any, factor: float) -> Any:
            draw["operations"].append(Operation(name, factor))
            return jitters[name](image, factor)

        return adjust

    def pop_augmentation() -> Augmentation:
        result = {**draw, "operations": tuple(draw["operations"])}
        draw.clear()
        draw["operations"] = []
        return Augmentation(**{"box": (0, 0, 1, 1), **result})

    draw["operations"] = []
    with (
        mock.patch.object(transforms.F, "resized_crop", record_crop),
        mock.patch.object(functional, "hflip", record_flip),
        mock.patch.object(auto_augment.AugmentOp, "__call__", record_call),
        mock.patch.multiple(functional, **{JITTER_FUNCTIONS[name]: record_jitter(name) for name in JITTER_FUNCTIONS}),
    ):
        yield pop_augmentation


def augment_with_timm(image: np.ndarray, size: tuple[int, int], count: int, **options: Any) -> Iterator[Any]:
    """Yield `count` pairs of timm's draw and result for an image, except draws for which Pillow 13 fails."""
    import torch
    from timm.data.transforms_factory import transforms_imagenet_train

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    transform: Any = transforms_imagenet_train(size, normalize=False, mean=MEAN, **options)
    with record_timm_draws() as pop_augmentation:
        while count:
            try:
                result = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
            except ValueError as error:
                if "bits must be between" not in str(error):
                    raise
                pop_augmentation()
                continue
            yield pop_augmentation(), result
            count -= 1


def write_golden() -> None:
    """Write `tests/golden/augment.npz`; requires timm, torchvision and torch."""
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import functional

    arrays = {"small": photo(40, 48), "photo": photo(96, 128)}
    small_image, large_image = arrays["small"], Image.fromarray(arrays["photo"])
    meta: dict[str, Any] = {"operations": [], "crops": [], "jitter": [], "pipelines": []}
    for index, case in enumerate(operation_cases(tuple(ARGUMENTS), GOLDEN_MAGNITUDES)):
        meta["operations"].append(case)
        arrays[f"operations/{index}"] = apply_timm(small_image, *case)
    for index, (box, kind) in enumerate((box, kind) for box in BOXES for kind in RESAMPLING_FILTERS):
        left, top, right, bottom = box
        crop = RandomResizedCropAndInterpolation((30, 24), interpolation=kind)
        with mock.patch.object(crop, "get_params", lambda *_, b=(top, left, bottom - top, right - left): b):
            arrays[f"crops/{index}"] = np.asarray(crop(large_image))
        meta["crops"].append((box, kind))
    for index, (name, factor) in enumerate(
        (name, factor) for name in JITTER_FUNCTIONS for factor in (0.0, 0.63, 1.0, 1.4)
    ):
        meta["jitter"].append((name, factor))
        adjust = getattr(functional, JITTER_FUNCTIONS[name])
        arrays[f"jitter/{index}"] = np.asarray(adjust(Image.fromarray(small_image), factor))
    for options in ({"auto_augment": CONFIG, "interpolation": "random"}, {"color_jitter": 0.4}):
        for augmentation, result in augment_with_timm(arrays["photo"], (30, 24), 12, **options):
            arrays[f"pipelines/{len(meta['pipelines'])}"] = result
            operations = [(op.name, op.argument, op.resampling) for op in augmentation.operations]
            meta["pipelines"].append((augmentation.box, augmentation.flip, augmentation.resampling, operations))
    path = Path(golden.__file__).parent / "augment.npz"
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays)


META, ARRAYS = golden.read("augment") if __name__ != "__main__" else ({}, {})


def golden_cases(kind: str) -> Iterator[tuple[Any, np.ndarray]]:
    for index, case in enumerate(META[kind]):
        yield case, ARRAYS[f"{kind}/{index}"]


def test_golden_cases_cover_every_operation() -> None:
    actual = {(name, magnitude, sign, kind) for name, magnitude, sign, kind in META["operations"]}
    assert actual == set(operation_cases(tuple(ARGUMENTS), GOLDEN_MAGNITUDES))
    assert set(ARGUMENTS) == set(NAMES) and len(NAMES) == 15


def test_operations_equal_golden_timm() -> None:
    for (name, magnitude, sign, resampling), expected in golden_cases("operations"):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        np.testing.assert_array_equal(apply_to_array(ARRAYS["small"], operation), expected, str(operation))


def test_crops_equal_golden_timm() -> None:
    transform = TrainTransform((30, 24))
    for (box, resampling), expected in golden_cases("crops"):
        for flip in (False, True):
            actual = transform.apply(ARRAYS["photo"], Augmentation(tuple(box), flip, resampling=resampling))
            np.testing.assert_array_equal(actual, expected[:, ::-1] if flip else expected)


def test_jitter_equals_golden_torchvision() -> None:
    for (name, factor), expected in golden_cases("jitter"):
        np.testing.assert_array_equal(apply_to_array(ARRAYS["small"], Operation(name, factor)), expected)


def test_augmentations_equal_golden_timm() -> None:
    transform = TrainTransform((30, 24), mean=MEAN)
    for (box, flip, resampling, operations), expected in golden_cases("pipelines"):
        sampled_operations = tuple(Operation(*values) for values in operations)
        augmentation = Augmentation(tuple(box), flip, (0, 0), resampling, sampled_operations)
        np.testing.assert_array_equal(transform.apply(ARRAYS["photo"], augmentation), expected)


@pytest.mark.parametrize("create_image", [photo, noise])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_operations_equal_timm(timm: Any, name: str, create_image: Callable[[int, int], np.ndarray]) -> None:
    image = create_image(61, 48)
    for _, magnitude, sign, resampling in operation_cases((name,), MAGNITUDES):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        expected = apply_timm(image, name, magnitude, sign, resampling)
        np.testing.assert_array_equal(apply_to_array(image, operation), expected, str(operation))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operations_on_gray_images_equal_timm(timm: Any, name: str) -> None:
    image = photo(30, 41)[..., 1]
    for _, magnitude, sign, resampling in operation_cases((name,), (2.5, 9.0)):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        expected = apply_timm(image, name, magnitude, sign, resampling, fill=117)
        np.testing.assert_array_equal(apply_to_array(image, operation, fill=(117,)), expected, str(operation))


@pytest.mark.parametrize(
    "options",
    [
        {"auto_augment": CONFIG, "interpolation": "bicubic"},
        {"auto_augment": "rand-m7-n4-mstd101-mmax12-p0.8-inc1", "interpolation": "random", "hflip": 0.9},
        {"color_jitter": 0.4, "interpolation": "bilinear"},
        {"color_jitter": 1.7, "scale": (0.3, 0.9), "ratio": (0.9, 1.8)},
    ],
)
def test_augmentations_equal_timm_for_its_own_draws(timm: Any, options: dict[str, Any]) -> None:
    image = photo(107, 160)
    transform = TrainTransform((56, 48), mean=MEAN)
    flips_and_names = set()
    for augmentation, expected in augment_with_timm(image, (56, 48), 200, **options):
        np.testing.assert_array_equal(transform.apply(image, augmentation), expected, str(augmentation))
        flips_and_names |= {augmentation.flip, *(operation.name for operation in augmentation.operations)}
    assert flips_and_names >= {True, False, "Color"} | (set(NAMES) if "auto_augment" in options else set())


def test_config_strings_are_parsed_like_timm(timm: Any) -> None:
    from timm.data.auto_augment import rand_augment_transform

    for config in (CONFIG, "rand-inc1", "rand-n3-inc1-m15-mmax20-p0.3", "rand-m8-mstd200-inc1"):
        expected, actual = rand_augment_transform(config, {}), RandAugment.parse(config)
        first = expected.ops[0]
        assert (actual.num_ops, actual.probability, actual.magnitude) == (
            expected.num_layers,
            first.prob,
            first.magnitude,
        )
        assert min(actual.magnitude_std, 101) == min(first.magnitude_std, 101)
        assert actual.max_magnitude == (first.magnitude_max or 10)
        assert sorted(TIMM_NAMES.get(name, name) for name in ARGUMENTS) == sorted(op.name for op in expected.ops)


def test_fill_color_equals_timm() -> None:
    assert fill_color(MEAN, 3) == FILL
    assert fill_color((0.5,), 3) == (128, 128, 128) and fill_color((0.5,), 1) == (128,)
    assert fill_color((1.0, 0.0, 0.5), 3) == (255, 0, 128)
    (gray,) = fill_color(MEAN, 1)
    assert abs(gray - np.dot(FILL, (0.299, 0.587, 0.114))) <= 1


def test_pixels_from_outside_have_the_fill_color() -> None:
    image = np.full((20, 30, 3), 255, np.uint8)
    result = apply_to_array(image, Operation("TranslateX", 0.2))
    assert (result[:, -6:] == FILL).all() and (result[:, :-6] == 255).all()
    assert (apply_to_array(image[..., 0], Operation("TranslateY", -0.25), fill=(7,))[:5] == 7).all()


def sample_operations(augmenter: RandAugment | ColorJitter, count: int = 6000) -> list[tuple[Operation, ...]]:
    rng = np.random.default_rng(0)
    return [augmenter.draw(rng) for _ in range(count)]


def assert_near(frequency: float, expected: float, count: int) -> None:
    """Check that a frequency is within five standard errors of its expectation."""
    assert abs(frequency - expected) < 5 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize(("config", "num_ops", "probability"), [(CONFIG, 2, 0.5), ("rand-n3-p0.2-inc1", 3, 0.2)])
def test_number_and_frequency_of_operations(config: str, num_ops: int, probability: float) -> None:
    samples = sample_operations(RandAugment.parse(config))
    lengths = np.array([len(operations) for operations in samples])
    for length in range(num_ops + 1):
        expected = math.comb(num_ops, length) * probability**length * (1 - probability) ** (num_ops - length)
        assert_near(float((lengths == length).mean()), expected, len(samples))
    names = [operation.name for operations in samples for operation in operations]
    for name in NAMES:
        assert_near(names.count(name) / len(names), 1 / 15, len(names))
    # Operations are sampled with replacement, so that both are equal in one pair out of fifteen.
    pairs = [operations for operations in samples if len(operations) == 2]
    assert_near(float(np.mean([first.name == second.name for first, second in pairs])), 1 / 15, len(pairs))


def sample_magnitudes(config: str) -> np.ndarray:
    """Return sampled magnitudes with the sign of the argument, computed from the angles of rotations."""
    samples = sample_operations(RandAugment.parse(f"{config}-n20-p1-inc1"), 1500)
    return np.array([op.argument / 3 for operations in samples for op in operations if op.name == "Rotate"])


def test_magnitudes_are_normal_and_clipped() -> None:
    magnitudes = sample_magnitudes("rand-m5-mstd0.5")
    assert abs(np.abs(magnitudes).mean() - 5) < 0.03 and abs(np.abs(magnitudes).std() - 0.5) < 0.02
    assert_near(float((magnitudes > 0).mean()), 0.5, len(magnitudes))
    magnitudes = np.abs(sample_magnitudes("rand-m9-mstd0.5"))
    assert magnitudes.max() == 10
    # Magnitudes two or more standard deviations above the mean are clipped to 10.
    assert_near(float((magnitudes == 10).mean()), 0.02275, len(magnitudes))
    assert set(np.abs(sample_magnitudes("rand-m20-mmax12"))) == {12}
    assert np.abs(sample_magnitudes("rand-m1-mstd3")).min() == 0
    magnitudes = np.abs(sample_magnitudes("rand-m8-mstd101"))
    assert magnitudes.max() <= 8 and abs(magnitudes.mean() - 4) < 0.2 and abs(magnitudes.std() - 8 / np.sqrt(12)) < 0.1


def test_arguments_at_zero_half_and_full_magnitude() -> None:
    table = {name: [ARGUMENTS[name](magnitude, -1) for magnitude in (0, 5, 10)] for name in ARGUMENTS}
    assert table == {
        **{name: [0, 0, 0] for name in ("AutoContrast", "Equalize", "Invert")},
        **{name: [1, 0.55, pytest.approx(0.1)] for name in ("Color", "Contrast", "Brightness", "Sharpness")},
        **{name: [0, -0.15, -0.3] for name in ("ShearX", "ShearY")},
        **{name: [0, -0.225, -0.45] for name in ("TranslateX", "TranslateY")},
        "Rotate": [0, -15, -30],
        "Posterize": [4, 2, 0],
        "Solarize": [256, 128, 0],
        "SolarizeAdd": [0, 55, 110],
    }


def test_random_interpolation_is_sampled_for_each_operation() -> None:
    samples = sample_operations(RandAugment.parse(CONFIG, "random"))
    kinds = [operation.resampling for operations in samples for operation in operations]
    assert_near(kinds.count("bilinear") / len(kinds), 0.5, len(kinds))
    assert {op.resampling for operations in sample_operations(RandAugment.parse(CONFIG), 50) for op in operations} == {
        "bicubic"
    }


def test_jitter_samples_three_factors_in_random_order() -> None:
    samples = sample_operations(ColorJitter(0.4))
    orders = [tuple(operation.name for operation in operations) for operations in samples]
    assert len(set(orders)) == 6
    for order in set(orders):
        assert sorted(order) == sorted(JITTER_FUNCTIONS)
        assert_near(orders.count(order) / len(orders), 1 / 6, len(orders))
    for name in JITTER_FUNCTIONS:
        factors = np.array([op.argument for operations in samples for op in operations if op.name == name])
        assert factors.min() >= 0.6 and factors.max() <= 1.4
        assert abs(factors.mean() - 1) < 0.02 and abs(factors.std() - 0.8 / np.sqrt(12)) < 0.01
    assert min(op.argument for operations in sample_operations(ColorJitter(3.0), 500) for op in operations) >= 0
    assert sample_operations(ColorJitter(0.0), 5) == [()] * 5


@given(st.integers(0, 2**32 - 1), st.sampled_from(["bicubic", "random"]))
def test_draws_depend_only_on_the_generator_and_are_picklable(seed: int, interpolation: str) -> None:
    augmenter = RandAugment.parse("rand-n5-mstd1-inc1", interpolation)
    copy = pickle.loads(pickle.dumps(augmenter))
    first, second = (one.draw(np.random.default_rng(seed)) for one in (augmenter, copy))
    assert first == second == pickle.loads(pickle.dumps(first))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "augmix-m3",
            "auto_augment='augmix-m3': must be a RandAugment config string; for example 'rand-m9-mstd0.5-inc1'",
        ),
        ("rand-m9-mstd0.5", "auto_augment='rand-m9-mstd0.5' requires inc1 .*: use 'rand-m9-mstd0.5-inc1'"),
        ("rand-m9-inc0-n3", "use 'rand-m9-n3-inc1'"),
        (
            "rand-m9-tweights-inc1",
            "unknown auto_augment option 'tweights': must be one of inc",
        ),
        ("rand-mstdd0.5-inc1", "unknown auto_augment option 'mstdd0.5': did you mean 'mstd'"),
        ("rand-m9.5-inc1", "auto_augment='rand-m9.5-inc1': expected an integer after 'm', got 'm9.5'"),
        ("rand-p-inc1", "auto_augment='rand-p-inc1': expected a number after 'p', got 'p'"),
        ("rand-m9-m8-inc1", "auto_augment='rand-m9-m8-inc1': option 'm' is set twice; remove 'm8'"),
        ("rand-n0-inc1", "RandAugment.num_ops=0: must be >= 1"),
        ("rand-mmax0-inc1", "RandAugment.max_magnitude=0: must be >= 1"),
        ("rand-p1.5-inc1", r"RandAugment.probability=1.5: must be in \[0, 1\]"),
    ],
)
def test_invalid_config_strings_are_rejected(config: str, message: str) -> None:
    for create in (RandAugment.parse, lambda name: TrainTransform((8, 8), auto_augment=name)):
        with pytest.raises(InputError, match=message) as error:
            create(config)
        assert "\n" not in str(error.value)


def test_invalid_operation_is_rejected() -> None:
    with pytest.raises(InputError, match="unknown image operation 'Rotat': did you mean 'Rotate'"):
        Operation("Rotat")
    with pytest.raises(InputError, match="unknown interpolation 'random'"):
        Operation("Rotate", 3.0, "random")
    with pytest.raises(InputError, match="unknown interpolation 'bicubik': did you mean 'bicubic'"):
        RandAugment(interpolation="bicubik")


if __name__ == "__main__":
    write_golden()

"""Tests of RandAugment, color jitter and their operations: timm's pixels, and timm's frequencies.

`tests/golden/augment.npz` holds what timm 1.0.31 and torchvision 0.29 make of small images, for machines without them.
To make it again: python -m tests.data.test_randaugment
"""

import json
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

STANDARD = "rand-m9-mstd0.5-inc1"
MEAN, FILL = (0.485, 0.456, 0.406), (124, 116, 104)
# timm's names of the operations that it has several variants of.
VARIANTS = {
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
    **{name: f"{name}Increasing" for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")},
}
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
SIGNED = (*MOVING, "Color", "Contrast", "Brightness", "Sharpness")
MAGNITUDES = (0.0, 0.3, 2.5, 5.0, 8.49, 9.0, 9.99, 10.0, 12.5)
STORED = (3.3, 9.0, 10.0)
BOXES = ((0, 0, 128, 96), (17, 5, 18, 6), (40, 20, 91, 77), (3, 60, 125, 96))
ADJUSTED = {"Brightness": "adjust_brightness", "Contrast": "adjust_contrast", "Color": "adjust_saturation"}


def photo(height: int, width: int) -> np.ndarray:
    picture = Image.fromarray(load_sample_image("flower.jpg")).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def ours(image: np.ndarray, *operations: Operation, fill: tuple[int, ...] = FILL) -> np.ndarray:
    return np.asarray(apply(Image.fromarray(image), operations, fill))


def decided(names: tuple[str, ...], magnitudes: tuple[float, ...]) -> Iterator[tuple[str, float, int, str]]:
    """Every (name, magnitude, sign, resampling) that makes a difference."""
    for name in names:
        for magnitude in magnitudes:
            for sign in (1, -1) if name in SIGNED else (1,):
                for resampling in RESAMPLING_FILTERS if name in MOVING else ("bicubic",):
                    yield name, magnitude, sign, resampling


def of_timm(image: np.ndarray, name: str, magnitude: float, sign: int, resampling: str, fill: Any = FILL) -> np.ndarray:
    """What timm's operation makes of an image, with its coin for the sign nailed down."""
    from timm.data.auto_augment import AugmentOp

    if name == "Posterize" and magnitude >= 10:
        return np.zeros_like(image)  # no bits are kept, at which Pillow 13 raises ValueError out of timm
    hparams = {"img_mean": fill, "interpolation": RESAMPLING_FILTERS[resampling], "magnitude_max": 20}
    operation = AugmentOp(VARIANTS.get(name, name), prob=1.0, magnitude=magnitude, hparams=hparams)
    with mock.patch.object(random, "random", return_value=0.9 if sign < 0 else 0.1):
        return np.asarray(operation(Image.fromarray(image)))


@contextmanager
def recorded() -> Iterator[Callable[[], Augmentation]]:
    """Lets timm draw as it likes; the function it yields tells what was drawn since it was last asked."""
    from timm.data import auto_augment, transforms
    from torchvision.transforms import functional

    drawn: dict[str, Any] = {}
    crop, flip, call, resample = (
        transforms.F.resized_crop,
        functional.hflip,
        auto_augment.AugmentOp.__call__,
        auto_augment._interpolation,
    )
    jitters = {name: getattr(functional, function) for name, function in ADJUSTED.items()}

    def crop_and_tell(image: Any, top: int, left: int, height: int, width: int, size: Any, mode: Any) -> Any:
        drawn.update(box=(left, top, left + width, top + height), resampling=mode.value)
        return crop(image, top, left, height, width, size, mode)

    def flip_and_tell(image: Any) -> Any:
        drawn["flip"] = True
        return flip(image)

    def call_and_tell(self: Any, image: Any) -> Any:
        function, names = self.aug_fn, {timm: name for name, timm in VARIANTS.items()}
        seen: list[str] = []

        def resample_and_tell(options: Any) -> Any:
            chosen = resample(options)
            seen.append(next(name for name, value in RESAMPLING_FILTERS.items() if value == chosen))
            return chosen

        def do_and_tell(image: Any, *arguments: Any, **options: Any) -> Any:
            with mock.patch.object(auto_augment, "_interpolation", resample_and_tell):
                result = function(image, *arguments, **options)
            argument = arguments[0] if arguments else 0.0
            drawn["operations"].append(Operation(names.get(self.name, self.name), argument, *seen))
            return result

        self.aug_fn = do_and_tell
        try:
            return call(self, image)
        finally:
            self.aug_fn = function

    def jitter_and_tell(name: str) -> Callable[..., Any]:
        def adjust(image: Any, factor: float) -> Any:
            drawn["operations"].append(Operation(name, factor))
            return jitters[name](image, factor)

        return adjust

    def told() -> Augmentation:
        result = {**drawn, "operations": tuple(drawn["operations"])}
        drawn.clear()
        drawn["operations"] = []
        return Augmentation(**{"box": (0, 0, 1, 1), **result})

    drawn["operations"] = []
    with (
        mock.patch.object(transforms.F, "resized_crop", crop_and_tell),
        mock.patch.object(functional, "hflip", flip_and_tell),
        mock.patch.object(auto_augment.AugmentOp, "__call__", call_and_tell),
        mock.patch.multiple(functional, **{ADJUSTED[name]: jitter_and_tell(name) for name in ADJUSTED}),
    ):
        yield told


def pipelines_of_timm(image: np.ndarray, size: tuple[int, int], count: int, **options: Any) -> Iterator[Any]:
    """timm's own augmentations of an image and what it drew for them; those that Pillow 13 breaks are left out."""
    import torch
    from timm.data.transforms_factory import transforms_imagenet_train

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    transform: Any = transforms_imagenet_train(size, normalize=False, mean=MEAN, **options)
    with recorded() as told:
        while count:
            try:
                result = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
            except ValueError as error:
                if "bits must be between" not in str(error):
                    raise
                told()
                continue
            yield told(), result
            count -= 1


def make() -> None:
    """Writes `tests/golden/augment.npz`, with timm, torchvision and torch."""
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision.transforms import functional

    arrays = {"small": photo(40, 48), "photo": photo(96, 128)}
    small, large = arrays["small"], Image.fromarray(arrays["photo"])
    meta: dict[str, Any] = {"operations": [], "crops": [], "jitter": [], "pipelines": []}
    for number, case in enumerate(decided(tuple(ARGUMENTS), STORED)):
        meta["operations"].append(case)
        arrays[f"operations/{number}"] = of_timm(small, *case)
    for number, (box, kind) in enumerate((box, kind) for box in BOXES for kind in RESAMPLING_FILTERS):
        left, top, right, bottom = box
        crop = RandomResizedCropAndInterpolation((30, 24), interpolation=kind)
        with mock.patch.object(crop, "get_params", lambda *_, b=(top, left, bottom - top, right - left): b):
            arrays[f"crops/{number}"] = np.asarray(crop(large))
        meta["crops"].append((box, kind))
    for number, (name, factor) in enumerate((name, factor) for name in ADJUSTED for factor in (0.0, 0.63, 1.0, 1.4)):
        meta["jitter"].append((name, factor))
        adjust = getattr(functional, ADJUSTED[name])
        arrays[f"jitter/{number}"] = np.asarray(adjust(Image.fromarray(small), factor))
    for options in ({"auto_augment": STANDARD, "interpolation": "random"}, {"color_jitter": 0.4}):
        for drawn, result in pipelines_of_timm(arrays["photo"], (30, 24), 12, **options):
            arrays[f"pipelines/{len(meta['pipelines'])}"] = result
            operations = [(op.name, op.argument, op.resampling) for op in drawn.operations]
            meta["pipelines"].append((drawn.box, drawn.flip, drawn.resampling, operations))
    path = Path(golden.__file__).parent / "augment.npz"
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays)


META, ARRAYS = golden.read("augment") if __name__ != "__main__" else ({}, {})


def stored(kind: str) -> Iterator[tuple[Any, np.ndarray]]:
    for number, case in enumerate(META[kind]):
        yield case, ARRAYS[f"{kind}/{number}"]


def test_the_stored_cases_are_all_there_are() -> None:
    found = {(name, magnitude, sign, kind) for name, magnitude, sign, kind in META["operations"]}
    assert found == set(decided(tuple(ARGUMENTS), STORED))
    assert set(ARGUMENTS) == set(NAMES) and len(NAMES) == 15


def test_operations_are_the_stored_ones_of_timm() -> None:
    for (name, magnitude, sign, resampling), expected in stored("operations"):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        np.testing.assert_array_equal(ours(ARRAYS["small"], operation), expected, str(operation))


def test_crops_are_the_stored_ones_of_timm() -> None:
    transform = TrainTransform((30, 24))
    for (box, resampling), expected in stored("crops"):
        plain, flipped = (Augmentation(tuple(box), flip, resampling=resampling) for flip in (False, True))
        np.testing.assert_array_equal(transform.apply(ARRAYS["photo"], plain), expected)
        np.testing.assert_array_equal(transform.apply(ARRAYS["photo"], flipped), expected[:, ::-1])


def test_jitter_is_the_stored_one_of_torchvision() -> None:
    for (name, factor), expected in stored("jitter"):
        np.testing.assert_array_equal(ours(ARRAYS["small"], Operation(name, factor)), expected)


def test_whole_augmentations_are_the_stored_ones_of_timm() -> None:
    transform = TrainTransform((30, 24), mean=MEAN)
    for (box, flip, resampling, operations), expected in stored("pipelines"):
        drawn = Augmentation(tuple(box), flip, (0, 0), resampling, tuple(Operation(*values) for values in operations))
        np.testing.assert_array_equal(transform.apply(ARRAYS["photo"], drawn), expected)


@pytest.mark.parametrize("picture", [photo, noise])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_operations_are_installed_timm_s(timm: Any, name: str, picture: Callable[[int, int], np.ndarray]) -> None:
    image = picture(61, 48)
    for _, magnitude, sign, resampling in decided((name,), MAGNITUDES):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        expected = of_timm(image, name, magnitude, sign, resampling)
        np.testing.assert_array_equal(ours(image, operation), expected, str(operation))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_grey_images_are_installed_timm_s(timm: Any, name: str) -> None:
    image = photo(30, 41)[..., 1]
    for _, magnitude, sign, resampling in decided((name,), (2.5, 9.0)):
        operation = Operation(name, ARGUMENTS[name](magnitude, sign), resampling)
        expected = of_timm(image, name, magnitude, sign, resampling, fill=117)
        np.testing.assert_array_equal(ours(image, operation, fill=(117,)), expected, str(operation))


@pytest.mark.parametrize(
    "options",
    [
        {"auto_augment": STANDARD, "interpolation": "bicubic"},
        {"auto_augment": "rand-m7-n4-mstd101-mmax12-p0.8-inc1", "interpolation": "random", "hflip": 0.9},
        {"color_jitter": 0.4, "interpolation": "bilinear"},
        {"color_jitter": 1.7, "scale": (0.3, 0.9), "ratio": (0.9, 1.8)},
    ],
)
def test_whole_augmentations_are_installed_timm_s_for_its_own_draws(timm: Any, options: dict[str, Any]) -> None:
    photograph = photo(107, 160)
    transform = TrainTransform((56, 48), mean=MEAN)
    seen = set()
    for drawn, expected in pipelines_of_timm(photograph, (56, 48), 200, **options):
        np.testing.assert_array_equal(transform.apply(photograph, drawn), expected, str(drawn))
        seen |= {drawn.flip, *(operation.name for operation in drawn.operations)}
    assert seen >= {True, False, "Color"} | (set(NAMES) if "auto_augment" in options else set())


def test_names_are_read_as_installed_timm_reads_them(timm: Any) -> None:
    from timm.data.auto_augment import rand_augment_transform

    for config in (STANDARD, "rand-inc1", "rand-n3-inc1-m15-mmax20-p0.3", "rand-m8-mstd200-inc1"):
        theirs, our = rand_augment_transform(config, {}), RandAugment.parse(config)
        first = theirs.ops[0]
        assert (our.count, our.probability, our.magnitude) == (theirs.num_layers, first.prob, first.magnitude)
        assert min(our.deviation, 101) == min(first.magnitude_std, 101)
        assert our.most == (first.magnitude_max or 10)
        assert sorted(VARIANTS.get(name, name) for name in ARGUMENTS) == sorted(op.name for op in theirs.ops)


def test_fill_colours_are_timm_s() -> None:
    assert fill_color(MEAN, 3) == FILL
    assert fill_color((0.5,), 3) == (128, 128, 128) and fill_color((0.5,), 1) == (128,)
    assert fill_color((1.0, 0.0, 0.5), 3) == (255, 0, 128)
    (gray,) = fill_color(MEAN, 1)
    assert abs(gray - np.dot(FILL, (0.299, 0.587, 0.114))) <= 1


def test_moved_in_pixels_have_the_fill_colour() -> None:
    image = np.full((20, 30, 3), 255, np.uint8)
    moved = ours(image, Operation("TranslateX", 0.2))
    assert (moved[:, -6:] == FILL).all() and (moved[:, :-6] == 255).all()
    assert (ours(image[..., 0], Operation("TranslateY", -0.25), fill=(7,))[:5] == 7).all()


def draws(augmenter: RandAugment | ColorJitter, count: int = 6000) -> list[tuple[Operation, ...]]:
    rng = np.random.default_rng(0)
    return [augmenter.draw(rng) for _ in range(count)]


def assert_near(share: float, expected: float, count: int) -> None:
    """Within five standard errors of a proportion."""
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize(("config", "count", "probability"), [(STANDARD, 2, 0.5), ("rand-n3-p0.2-inc1", 3, 0.2)])
def test_operations_are_as_many_and_as_likely_as_asked_for(config: str, count: int, probability: float) -> None:
    drawn = draws(RandAugment.parse(config))
    lengths = np.array([len(operations) for operations in drawn])
    for length in range(count + 1):
        ways = {0: 1, count: 1}.get(length, count)
        chance = ways * probability**length * (1 - probability) ** (count - length)
        assert_near(float((lengths == length).mean()), chance, len(drawn))
    flat = [operation.name for operations in drawn for operation in operations]
    for name in NAMES:
        assert_near(flat.count(name) / len(flat), 1 / 15, len(flat))
    # With replacement: a fifteenth of the pairs are twice the same.
    pairs = [operations for operations in drawn if len(operations) == 2]
    assert_near(float(np.mean([first.name == second.name for first, second in pairs])), 1 / 15, len(pairs))


def magnitudes(config: str) -> np.ndarray:
    """Drawn magnitudes with the sign of the argument, as the angles tell them."""
    drawn = draws(RandAugment.parse(f"{config}-n20-p1-inc1"), 1500)
    return np.array([op.argument / 3 for operations in drawn for op in operations if op.name == "Rotate"])


def test_magnitudes_are_normal_and_clipped() -> None:
    found = magnitudes("rand-m5-mstd0.5")
    assert abs(np.abs(found).mean() - 5) < 0.03 and abs(np.abs(found).std() - 0.5) < 0.02
    assert_near(float((found > 0).mean()), 0.5, len(found))
    standard = np.abs(magnitudes("rand-m9-mstd0.5"))
    assert standard.max() == 10
    assert_near(float((standard == 10).mean()), 0.02275, len(standard))  # two standard deviations and more
    assert set(np.abs(magnitudes("rand-m20-mmax12"))) == {12}
    assert np.abs(magnitudes("rand-m1-mstd3")).min() == 0
    even = np.abs(magnitudes("rand-m8-mstd101"))
    assert even.max() <= 8 and abs(even.mean() - 4) < 0.2 and abs(even.std() - 8 / np.sqrt(12)) < 0.1


def test_strength_grows_with_the_magnitude() -> None:
    """The arguments written out at none, half and full magnitude."""
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


def test_a_random_interpolation_is_drawn_for_each_operation() -> None:
    drawn = draws(RandAugment.parse(STANDARD, "random"))
    kinds = [operation.resampling for operations in drawn for operation in operations]
    assert_near(kinds.count("bilinear") / len(kinds), 0.5, len(kinds))
    assert {op.resampling for operations in draws(RandAugment.parse(STANDARD), 50) for op in operations} == {"bicubic"}


def test_jitter_draws_three_factors_in_any_order() -> None:
    drawn = draws(ColorJitter(0.4))
    orders = [tuple(operation.name for operation in operations) for operations in drawn]
    assert len(set(orders)) == 6
    for order in set(orders):
        assert sorted(order) == sorted(ADJUSTED)
        assert_near(orders.count(order) / len(orders), 1 / 6, len(orders))
    for name in ADJUSTED:
        factors = np.array([op.argument for operations in drawn for op in operations if op.name == name])
        assert factors.min() >= 0.6 and factors.max() <= 1.4
        assert abs(factors.mean() - 1) < 0.02 and abs(factors.std() - 0.8 / np.sqrt(12)) < 0.01
    assert min(op.argument for operations in draws(ColorJitter(3.0), 500) for op in operations) >= 0
    assert draws(ColorJitter(0.0), 5) == [()] * 5


@given(st.integers(0, 2**32 - 1), st.sampled_from(["bicubic", "random"]))
def test_the_generator_decides_alone_and_all_of_it_travels(seed: int, interpolation: str) -> None:
    augmenter = RandAugment.parse("rand-n5-mstd1-inc1", interpolation)
    copy = pickle.loads(pickle.dumps(augmenter))
    first, second = (one.draw(np.random.default_rng(seed)) for one in (augmenter, copy))
    assert first == second == pickle.loads(pickle.dumps(first))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("augmix-m3", "auto_augment 'augmix-m3' is not a RandAugment, .* try 'rand-m9-mstd0.5-inc1'"),
        ("rand-m9-mstd0.5", "auto_augment 'rand-m9-mstd0.5' .* try 'rand-m9-mstd0.5-inc1'"),
        ("rand-m9-inc0-n3", "try 'rand-m9-n3-inc1'"),
        (
            "rand-m9-tweights-inc1",
            "unknown part of auto_augment 'rand-m9-tweights-inc1' 'tweights': must be one of inc",
        ),
        ("rand-mstdd0.5-inc1", "unknown part .* 'mstdd0.5': did you mean 'mstd'"),
        ("rand-m9.5-inc1", "'m9.5' needs a whole number after m"),
        ("rand-p-inc1", "'p' needs a number after p"),
        ("rand-m9-m8-inc1", "gives m twice: leave out 'm8'"),
        ("rand-n0-inc1", "RandAugment's count 0 must be 1 or more"),
        ("rand-mmax0-inc1", "RandAugment's most 0 must be 1 or more"),
        ("rand-p1.5-inc1", r"RandAugment's probability 1.5 must be in 0\.\.1"),
    ],
)
def test_mistakes_in_a_name_are_found_when_it_is_read(config: str, message: str) -> None:
    for make_one in (RandAugment.parse, lambda name: TrainTransform((8, 8), auto_augment=name)):
        with pytest.raises(InputError, match=message) as caught:
            make_one(config)
        assert "\n" not in str(caught.value)


def test_mistakes_in_an_operation() -> None:
    with pytest.raises(InputError, match="unknown image operation 'Rotat': did you mean 'Rotate'"):
        Operation("Rotat")
    with pytest.raises(InputError, match="unknown interpolation 'random'"):
        Operation("Rotate", 3.0, "random")
    with pytest.raises(InputError, match="unknown interpolation 'bicubik': did you mean 'bicubic'"):
        RandAugment(interpolation="bicubik")


if __name__ == "__main__":
    make()

"""Tests of the digits source."""

import hashlib
import pickle
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tcvit_jax.data import open_source
from tcvit_jax.errors import InputError


def labels_of(split: str) -> np.ndarray:
    return np.array([example["label"] for example in open_source("digits", split)])


def images_of(split: str) -> np.ndarray:
    return np.stack([example["image"] for example in open_source("digits", split)])


def test_examples_are_gray_uint8_images_with_int_labels() -> None:
    source = open_source("digits", "train")
    example = source[0]
    assert example["image"].shape == (8, 8, 1) and example["image"].dtype == np.uint8
    assert type(example["label"]) is int
    assert source.classes == tuple("0123456789")


def test_pixels_cover_the_full_range() -> None:
    images = images_of("train")
    levels = {round(value * 255 / 16) for value in range(17)}
    assert set(np.unique(images)) == levels


def test_splits_partition_the_dataset() -> None:
    digits = load_digits()
    raw = np.round(digits.images * 255 / 16).astype(np.uint8)
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(raw, digits.target, strict=True))
    examples = [*open_source("digits", "train"), *open_source("digits", "val")]
    assert sorted((example["image"].tobytes(), example["label"]) for example in examples) == expected


def test_validation_has_a_fifth_of_every_class() -> None:
    train, val = np.bincount(labels_of("train")), np.bincount(labels_of("val"))
    assert val.sum() == 359 and train.sum() == 1438
    np.testing.assert_array_equal(val, np.round((train + val) / 5))


def test_validation_split_is_deterministic() -> None:
    # Accuracies can be compared across machines and releases only if the images are the same.
    digest = hashlib.sha256(images_of("val").tobytes()).hexdigest()
    assert digest == "bb60439e682f5e6d05ec695e3b7a8b90a0ff8052703ebddf0d1a7660de7beef5"


def test_pickled_source_reads_the_same() -> None:
    source = open_source("digits", "val")
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source) == 359 and copy.classes == source.classes
    np.testing.assert_array_equal(copy[17]["image"], source[17]["image"])


def test_index_beyond_the_end_raises_index_error() -> None:
    source = open_source("digits", "val")
    with pytest.raises(IndexError):
        source[len(source)]


def test_unknown_split_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown split of digits 'vall': did you mean 'val'") as error:
        open_source("digits", "vall")
    assert "\n" not in str(error.value)


def test_missing_scikit_learn_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r'requires scikit-learn: run pip install "tcvit_jax\[demo\]"') as error:
        open_source("digits", "train")
    assert "\n" not in str(error.value)


def test_fingerprints_of_the_splits_differ_and_never_change() -> None:
    train, val = open_source("digits", "train"), open_source("digits", "val")
    assert train.fingerprint == "fd6cb9bebb7969896aefe935c2fc9c5b75f118422a135cc96d8906f911acda18"
    assert val.fingerprint == "01364fd5add4597269bf62861f0985c5015e32a21bdc8afb05f441c56ee668ab"
    assert train.skipped == {} and train.is_in_memory

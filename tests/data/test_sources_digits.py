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


def test_examples_are_grey_bytes_with_an_integer_label() -> None:
    source = open_source("digits", "train")
    example = source[0]
    assert example["image"].shape == (8, 8, 1) and example["image"].dtype == np.uint8
    assert type(example["label"]) is int
    assert source.classes == tuple("0123456789")


def test_values_cover_the_whole_range() -> None:
    images = images_of("train")
    levels = {round(value * 255 / 16) for value in range(17)}
    assert set(np.unique(images)) == levels


def test_the_two_splits_are_all_of_the_digits_exactly_once() -> None:
    digits = load_digits()
    raw = np.round(digits.images * 255 / 16).astype(np.uint8)
    everything = sorted((image.tobytes(), int(label)) for image, label in zip(raw, digits.target, strict=True))
    both = [*open_source("digits", "train"), *open_source("digits", "val")]
    assert sorted((example["image"].tobytes(), example["label"]) for example in both) == everything


def test_validation_is_a_fifth_of_every_class() -> None:
    train, val = np.bincount(labels_of("train")), np.bincount(labels_of("val"))
    assert val.sum() == 359 and train.sum() == 1438
    np.testing.assert_array_equal(val, np.round((train + val) / 5))


def test_the_split_is_the_same_on_every_machine() -> None:
    # Accuracies of different machines, and of different releases, are of the same images.
    digest = hashlib.sha256(images_of("val").tobytes()).hexdigest()
    assert digest == "bb60439e682f5e6d05ec695e3b7a8b90a0ff8052703ebddf0d1a7660de7beef5"


def test_a_source_survives_pickling() -> None:
    source = open_source("digits", "val")
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source) == 359 and copy.classes == source.classes
    np.testing.assert_array_equal(copy[17]["image"], source[17]["image"])


def test_iteration_ends_at_the_length() -> None:
    source = open_source("digits", "val")
    with pytest.raises(IndexError):
        source[len(source)]


def test_an_unknown_split_names_the_right_ones() -> None:
    with pytest.raises(InputError, match="unknown split of digits 'vall': did you mean 'val'") as caught:
        open_source("digits", "vall")
    assert "\n" not in str(caught.value)


def test_a_missing_scikit_learn_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r'pip install "tcvit_jax\[demo\]"') as caught:
        open_source("digits", "train")
    assert "\n" not in str(caught.value)

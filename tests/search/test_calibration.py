"""Tests of the calibration images: never those that are reported."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax.search import calibration
from tcvit_jax.search.calibration import open_calibration
from tcvit_jax.search.objective import Agreement
from tcvit_jax.tasks.classify import Classify


def test_images_are_evenly_spaced_training_images(pretrained):
    opened = open_calibration(pretrained, Classify(), 100, 16)
    train = pretrained.eval_data(split="train").source
    assert len(opened.data.source) == 100 and opened.data.batch_size == 16
    for index in (0, 1, 57, 99):
        np.testing.assert_array_equal(opened.data.source[index]["image"], train[index * len(train) // 100]["image"])
    rung = opened.rung(20)
    assert [len(batch["mask"]) for batch in rung.batches()] == [16, 16]
    assert sum(batch["mask"].sum() for batch in rung.batches()) == 20
    np.testing.assert_array_equal(rung.source[3]["image"], opened.data.source[15]["image"])
    assert opened.reported.fingerprint == pretrained.eval_data().source.fingerprint


def test_evaluation_split_is_never_searched(pretrained):
    same = pretrained.updated({"data.train_split": "val"})
    with pytest.raises(tc.InputError) as error:
        open_calibration(same, Classify(), 16, 16)
    assert str(error.value) == (
        "data.train_split='val': must be different from data.eval_split; "
        "candidates must not be chosen on the images that are reported"
    )


@pytest.mark.parametrize("images", [0, 1439])
def test_number_of_images_has_a_range(pretrained, images):
    with pytest.raises(tc.InputError, match=rf"--images={images}: must be between 1 and 1438; split 'train' has 1,438"):
        open_calibration(pretrained, Classify(), images, 16)


@pytest.fixture
def folder(tmp_path, pretrained):
    """Return a model with a folder of images whose splits have equal names of files."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        for index in range(3):
            image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
            image.save(tmp_path / split / "a" / f"{index}.png")
    changes = {"data.name": "folder", "data.dir": str(tmp_path)}
    return pretrained.without_record().updated(changes), tmp_path


def test_equal_names_of_different_files_are_valid(folder):
    opened = open_calibration(folder[0], Agreement(), 3, 8)
    assert len(opened.data.source) == 3 and opened.reported.fingerprint == opened.data.source.source.fingerprint


def test_links_to_reported_files_are_errors(folder):
    pretrained, path = folder
    (path / "train" / "a" / "1.png").unlink()
    (path / "train" / "a" / "1.png").symlink_to(path / "val" / "a" / "2.png")
    with pytest.raises(tc.InputError) as error:
        open_calibration(pretrained, Agreement(), 3, 8)
    assert str(error.value).startswith(
        f"data.train_split='train': has the same file {path}/train/a/1.png as data.eval_"
    )


def test_another_split_of_the_folder_is_valid(folder):
    pretrained, path = folder
    (path / "train").rename(path / "chosen")
    with pytest.raises(tc.InputError, match="unknown split of .* 'train': must be one of chosen, val"):
        open_calibration(pretrained, Agreement(), 3, 8)
    assert len(open_calibration(pretrained.updated({"data.train_split": "chosen"}), Agreement(), 2, 8).data.source) == 2


class Slice:
    """A slice of images, as of a TFDS split."""

    classes, skipped, is_in_memory = ("a",), {}, True

    def __init__(self, start, stop):
        self.fingerprint, self._rows = f"{start}:{stop}", range(start, stop)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return {"image": np.full((2, 2, 1), self._rows[index], np.uint8), "label": 0}


@pytest.mark.parametrize(
    ("train", "val", "is_valid"),
    [((0, 80), (80, 100), True), ((0, 90), (80, 100), False), ((0, 100), (50, 51), False)],
)
def test_overlapping_slices_are_errors(train, val, is_valid):
    sources = {"train": Slice(*train), "val": Slice(*val)}
    data = SimpleNamespace(train_split=f"train[{train[0]}:{train[1]}]", eval_split=f"train[{val[0]}:]")

    def eval_data(split="val", needs_classifier=True):
        source = sources["train" if split == data.train_split else "val"]
        return calibration.EvalData(source, None, 8, 0)

    pretrained = SimpleNamespace(config=SimpleNamespace(data=data), eval_data=eval_data)
    if is_valid:
        assert len(open_calibration(pretrained, Agreement(), 40, 8).data.source) == 40
        return
    with pytest.raises(tc.InputError, match=r"data.train_split='train\[.*: has some of the same images as data.eval_"):
        open_calibration(pretrained, Agreement(), len(sources["train"]), 8)


def test_names_of_splits():
    assert calibration._split_names("train[:10%]+test") == {"train", "test"}
    assert not calibration._split_names("train[:50%]") & calibration._split_names("validation[train_like:]")

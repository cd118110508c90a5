"""Pairs of images in two folders."""

import numpy as np
import pytest
from PIL import Image

from tcvit_jax import InputError
from tcvit_jax.data import open_source


@pytest.fixture
def pairs(tmp_path):
    for offset, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        for index in range(3):
            Image.new("RGB", (4, 4), (100 * offset + index,) * 3).save(tmp_path / folder / f"{index}.png")
    (tmp_path / "a" / "notes.txt").touch()
    return tmp_path


def test_images_of_b_follow_those_of_a(pairs):
    source = open_source("pairs", "val", str(pairs))
    assert (len(source), source.pairs, source.classes) == (6, 3, ("0.png", "1.png", "2.png"))
    assert [source[index]["label"] for index in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [int(np.asarray(source[index]["image"])[0, 0, 0]) for index in range(6)] == [0, 1, 2, 100, 101, 102]
    assert source.name(4) == "b/1.png"
    assert source.skipped == {"with suffix '.txt'": 1}


def test_first_pairs_are_a_subset(pairs):
    source = open_source("pairs", "val", str(pairs))
    subset = source.first(2)
    assert (len(subset), subset.name(2)) == (4, "b/0.png")
    assert subset.fingerprint != source.fingerprint
    for count in (1, 4):
        with pytest.raises(InputError, match=rf"--max-pairs={count}: must be in \[2, 3\], the number of pairs"):
            source.first(count)


def test_names_without_a_partner_are_errors(pairs):
    (pairs / "b" / "1.png").rename(pairs / "b" / "7.png")
    with pytest.raises(InputError, match="a/1.png: 1 of 3 images have no partner in 'b'; expected DIRECTORY/a"):
        open_source("pairs", "val", str(pairs))
    (pairs / "a" / "1.png").unlink()
    with pytest.raises(InputError, match="b/7.png: 1 of 3 images have no partner in 'a'"):
        open_source("pairs", "val", str(pairs))


def test_missing_folders_images_and_splits_are_errors(pairs):
    with pytest.raises(InputError, match="unknown split of pairs 'train': must be one of test, val, validation"):
        open_source("pairs", "train", str(pairs))
    with pytest.raises(InputError, match="dataset 'pairs' requires a directory: set --config.data.dir=DIRECTORY"):
        open_source("pairs", "val")
    for path in (pairs / "b").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="b: no images"):
        open_source("pairs", "val", str(pairs))
    (pairs / "b").rmdir()
    with pytest.raises(InputError, match="b: directory not found; expected DIRECTORY/a"):
        open_source("pairs", "val", str(pairs))


def test_damaged_image_is_an_error(pairs):
    (pairs / "b" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match="b/0.png: cannot read image: the file is empty"):
        open_source("pairs", "val", str(pairs))[3]

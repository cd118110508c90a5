"""Tests of the folder source on real PNG and JPEG files."""

import os
import pickle
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tcvit_jax.data import describe_skipped, open_source
from tcvit_jax.data.sources import FolderSource
from tcvit_jax.data.sources.images import SUFFIXES
from tcvit_jax.errors import InputError

RED = (200, 30, 10)
open_file = open


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), color: object = RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in `train`, one of them in `val`."""
    write(tmp_path / "train" / "cat" / "b.png")
    write(tmp_path / "train" / "cat" / "a.JPG")
    write(tmp_path / "train" / "dog" / "c.jpeg")
    write(tmp_path / "val" / "dog" / "d.png")
    return tmp_path


def one_line_error(split: str, directory: object, index: int | None = None) -> str:
    def open_and_read() -> None:
        source = open_source("folder", split, str(directory))
        if index is not None:
            source[index]

    with pytest.raises(InputError) as error:
        open_and_read()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_classes_and_files_are_sorted(folder: Path) -> None:
    source = open_source("folder", "train", str(folder))
    assert source.classes == ("cat", "dog")
    assert [example["label"] for example in (source[0], source[1], source[2])] == [0, 0, 1]
    assert len(source) == 3
    np.testing.assert_array_equal(source[1]["image"], np.full((4, 6, 3), RED, np.uint8))  # b.png, lossless


def test_name_is_relative_to_the_split(folder: Path) -> None:
    source = FolderSource("train", str(folder))
    assert [source.name(index) for index in range(3)] == ["cat/a.JPG", "cat/b.png", "dog/c.jpeg"]


def test_labels_agree_between_splits(folder: Path) -> None:
    source = open_source("folder", "val", str(folder))
    assert source.classes == ("cat", "dog") and source[0]["label"] == 1


def test_split_without_train_numbers_its_own_classes(tmp_path: Path) -> None:
    write(tmp_path / "test" / "dog" / "d.png")
    source = open_source("folder", "test", str(tmp_path))
    assert source.classes == ("dog",) and source[0]["label"] == 0


def test_files_that_are_not_read_are_counted(folder: Path) -> None:
    cat = folder / "train" / "cat"
    (cat / "notes.txt").write_text("not an image")
    (cat / "README").write_text("not an image")
    (cat / "RAW.CR2").write_bytes(b"")
    write(cat / ".hidden.png")
    write(cat / "more" / "f.png")
    write(cat / "more" / "deep" / "g.png")
    write(cat / ".ipynb_checkpoints" / "h.png")
    write(folder / "train" / ".cache" / "e.png")
    write(folder / "train" / "flat.png")
    (cat / "gone.png").symlink_to(folder / "gone.png")
    (cat / "loop.png").symlink_to("loop.png")
    os.mkfifo(cat / "pipe.png")
    source = open_source("folder", "train", str(folder))
    assert len(source) == 3 and source.classes == ("cat", "dog")
    assert source.skipped == {
        "hidden": 1, "in subfolders": 2, "linked to nothing": 2, "not regular": 1, "outside of class folders": 1,
        "with suffix '.cr2'": 1, "with suffix '.txt'": 1, "without suffix": 1,
    }  # fmt: skip
    assert describe_skipped(source.skipped) == (
        "10 files not read: 1 hidden, 2 in subfolders, 2 linked to nothing, 1 not regular, 1 outside of class folders, "
        "1 with suffix '.cr2', 1 with suffix '.txt', 1 without suffix"
    )
    assert open_source("folder", "val", str(folder)).skipped == {}
    assert describe_skipped({}) == ""


def test_links_to_images_and_directories_are_followed(folder: Path) -> None:
    train = folder / "train"
    (train / "cat" / "z.png").symlink_to(train / "dog" / "c.jpeg")
    (train / "cow").symlink_to(train / "dog")
    source = FolderSource("train", str(folder))
    assert source.classes == ("cat", "cow", "dog")
    assert [source.name(index) for index in range(5)] == [
        "cat/a.JPG",
        "cat/b.png",
        "cat/z.png",
        "cow/c.jpeg",
        "dog/c.jpeg",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"B{suffix.upper()}"):
        write(tmp_path / "train" / "a" / name, *(("L", (6, 4), 77) if suffix == ".pgm" else ()))
    source = FolderSource("train", str(tmp_path))
    assert [source.name(index) for index in range(2)] == [f"a/B{suffix.upper()}", f"a/a{suffix}"]
    assert source[1]["image"].mode == "RGB" and source[1]["image"].size == (6, 4)
    if suffix not in (".pgm", ".jpg", ".jpeg", ".jfif", ".webp", ".gif"):
        np.testing.assert_array_equal(source[1]["image"], np.full((4, 6, 3), RED, np.uint8))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tiff", ".webp"])
def test_first_image_of_a_file_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "train" / "a" / f"x{suffix}"
    path.parent.mkdir(parents=True)
    frames = [Image.new("RGB", (6, 4), color) for color in ("white", "black")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert np.asarray(FolderSource("train", str(tmp_path))[0]["image"]).min() > 250


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([str(number) for number in range(11)], [str(number) for number in range(11)]),
        ([f"{number:02}" for number in range(11)], [f"{number:02}" for number in range(11)]),
        (["10", "9", "007", "8"], ["007", "8", "9", "10"]),
        (["1", "01", "0"], ["0", "01", "1"]),
        # One name that is no number, and all are sorted as text.
        (["10", "9", "cat"], ["10", "9", "cat"]),
        (["n2", "n10"], ["n10", "n2"]),
        # Python reads both as numbers, but they are none of ours.
        (["1_0", "2"], ["1_0", "2"]),
        (["\u0662", "1"], ["1", "\u0662"]),
    ],
)
def test_numeric_classes_are_sorted_by_number(tmp_path: Path, names: list[str], classes: list[str]) -> None:
    for number, name in enumerate(names):
        write(tmp_path / "train" / name / f"{number}.png")
        write(tmp_path / "val" / name / f"{number}.png")
    for split in ("train", "val"):
        source = FolderSource(split, str(tmp_path))
        assert source.classes == tuple(classes)
        for index in range(len(names)):
            name, file = source.name(index).split("/")
            assert names[int(file.removesuffix(".png"))] == name == classes[source[index]["label"]]


def test_fingerprint_depends_on_classes_and_names_only(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = open_source("folder", "train", str(folder)).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert open_source("folder", "val", str(folder)).fingerprint != first
    assert pickle.loads(pickle.dumps(open_source("folder", "train", str(folder)))).fingerprint == first
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    write(copy / "train" / "cat" / "b.png", color="blue")
    assert open_source("folder", "train", str(copy)).fingerprint == first
    fingerprints = {first}
    changes = [("dog", "wolf"), ("cat/b.png", "cat/c.png"), ("cat/c.png", "wolf/b.png")]
    for number, (old, new) in enumerate(changes, 2):
        (copy / "train" / old).rename(copy / "train" / new)
        fingerprints.add(open_source("folder", "train", str(copy)).fingerprint)
        assert len(fingerprints) == number
    write(copy / "train" / "cat" / "new.png")
    assert open_source("folder", "train", str(copy)).fingerprint not in fingerprints


def test_pickled_source_reads_the_same(folder: Path) -> None:
    source = open_source("folder", "train", str(folder))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.classes == source.classes
    np.testing.assert_array_equal(copy[2]["image"], source[2]["image"])


@pytest.mark.parametrize(
    ("name", "mode", "color", "expected"),
    [
        ("x.png", "L", 77, (77, 77, 77)),
        ("x.png", "1", 1, (255, 255, 255)),
        ("x.png", "LA", (77, 3), (77, 77, 77)),
        ("x.png", "RGBA", (*RED, 0), RED),
        ("x.jpg", "L", 77, (77, 77, 77)),
        ("x.jpg", "CMYK", (0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, name: str, mode: str, color: object, expected: tuple[int, int, int]
) -> None:
    write(tmp_path / "train" / "a" / name, mode, color=color)
    image = open_source("folder", "train", str(tmp_path))[0]["image"]
    assert image.mode == "RGB"
    np.testing.assert_array_equal(image, np.full((4, 6, 3), expected, np.uint8))


def test_palette_with_transparency_becomes_rgb(tmp_path: Path) -> None:
    path = tmp_path / "train" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(path, transparency=bytes([0, 128]))
    decoded = open_source("folder", "train", str(tmp_path))[0]["image"]
    np.testing.assert_array_equal(decoded, np.full((4, 6, 3), RED, np.uint8))


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotated by 90 degrees.
    Image.new("RGB", (6, 4), RED).save(path, exif=exif)
    assert open_source("folder", "train", str(tmp_path))[0]["image"].size == (6, 4)


def test_pixels_are_loaded_and_files_closed(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (6, 4), color) for color in (RED, "blue"))
    directory = tmp_path / "train" / "a"
    directory.mkdir(parents=True)
    first.save(directory / "1.png")
    # Pillow keeps files with several images open; the first image is read.
    first.save(directory / "2.png", save_all=True, append_images=[second])
    first.save(directory / "3.jpg", quality=100, subsampling=0)
    first.save(directory / "4.jpg", format="MPO", quality=100, subsampling=0, save_all=True, append_images=[second])
    source, opened = open_source("folder", "train", str(tmp_path)), []
    with mock.patch("builtins.open", side_effect=lambda *arguments: opened.append(open_file(*arguments)) or opened[-1]):
        images = [source[index]["image"] for index in range(len(source))]
    assert len(opened) == 4 and all(file.closed for file in opened)
    for image in images:
        np.testing.assert_allclose(np.asarray(image), np.full((4, 6, 3), RED, np.uint8), rtol=0, atol=2)


@pytest.mark.parametrize(("mode", "transparent"), [("RGB", RED), ("L", 77)])
def test_transparent_color_is_kept_as_color(tmp_path: Path, mode: str, transparent: object) -> None:
    path = tmp_path / "train" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    Image.new(mode, (6, 4), transparent).save(path, transparency=transparent)
    with Image.open(path) as file:
        assert "transparency" in file.info
    image = open_source("folder", "train", str(tmp_path))[0]["image"]
    assert not image.info and image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image)[0, 0], transparent)


def test_missing_directory_names_the_expected_layout(tmp_path: Path) -> None:
    message = one_line_error("train", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: directory not found; expected DIRECTORY/train/CLASS" in message
    assert "dataset 'folder' requires a directory: set --config.data.dir" in one_line_error("train", "")


def test_missing_split_names_the_available_ones(folder: Path) -> None:
    assert one_line_error("test", folder) == f"unknown split of {folder} 'test': must be one of train, val"


def test_empty_directory_is_an_error(tmp_path: Path) -> None:
    assert f"{tmp_path}: no split directories" in one_line_error("train", tmp_path)


def test_split_without_classes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train" / "flat.png")
    assert f"{tmp_path / 'train'}: no class directories" in one_line_error("train", tmp_path)


def test_class_without_images_is_an_error(folder: Path) -> None:
    (folder / "train" / "eel").mkdir()
    assert f"{folder / 'train' / 'eel'}: no images" in one_line_error("train", folder)


def test_class_missing_in_train_is_an_error(folder: Path) -> None:
    write(folder / "val" / "emu" / "x.png")
    expected = f"{folder / 'val'}: class 'emu' not found in {folder / 'train'}"
    assert expected in one_line_error("val", folder)


def test_directory_without_permission_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert one_line_error("train", folder) == f"{folder / 'train' / 'cat'}: Permission denied"


def test_empty_image_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.png")
    path.write_bytes(b"")
    assert f"{path}: cannot read image: the file is empty" in one_line_error("train", tmp_path, index=0)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_truncated_image_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "train" / "a" / name
    path.parent.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{path}: cannot read image: " in one_line_error("train", tmp_path, index=0)


def test_file_that_is_not_an_image_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.jpg")
    path.write_text("<html>404</html>")
    assert f"{path}: cannot read image: " in one_line_error("train", tmp_path, index=0)


def test_image_that_became_a_pipe_is_refused_without_opening_it(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.png")
    source = open_source("folder", "train", str(tmp_path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError) as error:
        source[0]
    assert str(error.value) == f"{path}: expected an image, got a pipe"


@pytest.mark.parametrize("size", [(16_000, 6_000), (30_000, 6_000)])
def test_image_above_the_limit_of_pillow_is_an_error(tmp_path: Path, size: tuple[int, int]) -> None:
    """Pillow warns of the first one and refuses the second one."""
    path = write(tmp_path / "train" / "a" / "x.png", "1", size, 0)
    message = one_line_error("train", tmp_path, index=0)
    assert message == f"{path}: cannot read image: expected at most 89,478,485 pixels, the limit of Pillow"


def test_image_of_absurd_ratio_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.png", "1", (65_536, 1), 0)
    message = one_line_error("train", tmp_path, index=0)
    assert message == f"{path}: cannot read image: expected an aspect ratio of at most 65,535, got 65,536 x 1"


def test_deleted_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.jpg")
    source = open_source("folder", "train", str(tmp_path))
    path.unlink()
    with pytest.raises(InputError, match="x.jpg: not found"):
        source[0]

"""Tests of the folder source on real PNG and JPEG files."""

import pickle
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tcvit_jax.data import open_source
from tcvit_jax.data.sources import FolderSource
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


def test_hidden_and_other_files_are_ignored(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    write(folder / "train" / "cat" / ".hidden.png")
    write(folder / "train" / ".cache" / "e.png")
    source = open_source("folder", "train", str(folder))
    assert len(source) == 3 and source.classes == ("cat", "dog")


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


def test_deleted_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "train" / "a" / "x.jpg")
    source = open_source("folder", "train", str(tmp_path))
    path.unlink()
    with pytest.raises(InputError, match="cannot read image"):
        source[0]

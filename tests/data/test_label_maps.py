"""Tests of label maps: file formats, and RoIAlign against torchvision and plain loops."""

import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.data import label_maps
from tcvit_jax.data.label_maps import (
    SUFFIXES,
    LabelMaps,
    TokenLabels,
    crop_label_map,
    read_label_map,
    roi_align_weights,
)
from tcvit_jax.errors import InputError

CLASSES = 30


def random_label_map(seed: int = 0, height: int = 6, width: int = 6) -> np.ndarray:
    """Return five distinct classes per cell with descending scores, float32 [2, 5, height, width]."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(5, 4, (5, height, width)), axis=0)
    return np.stack([scores, rng.random((CLASSES, height, width)).argsort(0)[:5]]).astype(np.float32)


def dense_logits(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return float64 [CLASSES, h, w], 0 for classes that are not among the five."""
    result = np.zeros((CLASSES, *scores.shape[1:]))
    np.put_along_axis(result, classes.astype(np.int64), scores, axis=0)
    return result


def crop_logits(labels: TokenLabels) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of the patches [CLASSES, gh, gw] and of the crop as a single patch [CLASSES]."""
    maps = dense_logits(labels["scores"], labels["classes"])
    patches = np.einsum("yh,chw,xw->cyx", labels["rows"], maps, labels["columns"])
    return patches, np.einsum("h,chw,w->c", labels["image_rows"], maps, labels["image_columns"])


def roi_align(maps: np.ndarray, box: tuple[float, ...], bins: tuple[int, int]) -> np.ndarray:
    """Return RoIAlign of [c, h, w] over (left, top, right, bottom), computed one sample at a time."""
    left, top, right, bottom = box
    height, width = max(bottom - top, 1.0) / bins[0], max(right - left, 1.0) / bins[1]
    count = math.ceil(height), math.ceil(width)
    result = np.zeros((len(maps), *bins))
    for row, column in np.ndindex(*bins):
        for i, j in np.ndindex(*count):
            y = top + row * height + (i + 0.5) * height / count[0]
            x = left + column * width + (j + 0.5) * width / count[1]
            result[:, row, column] += bilinear(maps, y, x) / (count[0] * count[1])
    return result


def bilinear(maps: np.ndarray, y: float, x: float) -> np.ndarray:
    height, width = maps.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(maps))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = maps[:, top, left] * (left + 1 - x) + maps[:, top, right] * (x - left)
    lower = maps[:, bottom, left] * (left + 1 - x) + maps[:, bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def box_in_cells(box: tuple[int, ...], image_size: tuple[int, int], cells: tuple[int, int]) -> tuple[float, ...]:
    (height, width), (rows, columns) = image_size, cells
    left, top, right, bottom = box
    return left / width * columns - 0.5, top / height * rows - 0.5, right / width * columns - 0.5, bottom / height * rows - 0.5  # fmt: skip


@st.composite
def crops(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Draw a box of at least one pixel in an image, and the (height, width) of the image."""
    height, width = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))), (height, width)


def one_line_error(path: object) -> str:
    with pytest.raises(InputError) as error:
        read_label_map(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(max_examples=60)
@given(crops(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_crop_equals_roi_align_definition(
    crop: tuple[tuple[int, int, int, int], tuple[int, int]], cells: tuple[int, int], grid: tuple[int, int]
) -> None:
    box, image_size = crop
    label_map = random_label_map(1, *cells)
    patches, image_logits = crop_logits(crop_label_map(label_map, box, image_size, grid))
    cell_box = box_in_cells(box, image_size, cells)
    np.testing.assert_allclose(patches, roi_align(dense_logits(*label_map), cell_box, grid), atol=2e-5)
    np.testing.assert_allclose(image_logits, roi_align(dense_logits(*label_map), cell_box, (1, 1))[:, 0, 0], atol=2e-5)


@settings(max_examples=60)
@given(crops(), st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_crop_equals_torchvision_roi_align(
    torch, crop: tuple[tuple[int, int, int, int], tuple[int, int]], cells: tuple[int, int]
) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="compares with the optional torchvision")
    box, image_size = crop
    label_map = random_label_map(2, *cells)
    patches, image_logits = crop_logits(crop_label_map(label_map, box, image_size, (14, 14)))
    boxes = torch.tensor([(0.0, *box_in_cells(box, image_size, cells))], dtype=torch.float64)
    maps = torch.from_numpy(dense_logits(*label_map))[None]
    np.testing.assert_allclose(patches, ops.roi_align(maps, boxes, (14, 14))[0], atol=2e-5)
    np.testing.assert_allclose(image_logits, ops.roi_align(maps, boxes, (1, 1))[0, :, 0, 0], atol=2e-5)


@settings(max_examples=30)
@given(crops())
def test_flipped_crop_equals_crop_of_flipped_image(
    crop: tuple[tuple[int, int, int, int], tuple[int, int]],
) -> None:
    (left, top, right, bottom), (height, width) = crop
    label_map = random_label_map(3, 5, 8)
    actual = crop_logits(crop_label_map(label_map, (left, top, right, bottom), (height, width), (4, 3), flip=True))
    flipped_box = width - right, top, width - left, bottom
    expected = crop_logits(crop_label_map(label_map[..., ::-1], flipped_box, (height, width), (4, 3)))
    for actual_logits, expected_logits in zip(actual, expected, strict=True):
        np.testing.assert_allclose(actual_logits, expected_logits, atol=1e-5)


def test_flip_reverses_patch_columns() -> None:
    arguments = random_label_map(4), (13, 20, 80, 90), (100, 120), (4, 4)
    unflipped_logits, flipped_logits = (
        crop_logits(crop_label_map(*arguments)),
        crop_logits(crop_label_map(*arguments, flip=True)),
    )
    np.testing.assert_allclose(flipped_logits[0], unflipped_logits[0][:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(flipped_logits[1], unflipped_logits[1], atol=1e-5)


def test_top_crop_depends_only_on_top_rows() -> None:
    label_map = random_label_map(5, 8, 8)
    label_map[:, :, 4:] = random_label_map(6, 4, 8)
    other_map = label_map.copy()
    other_map[:, :, 4:] = random_label_map(7, 4, 8)
    # The crop ends above the rows that differ by more than half a cell, the reach of linear interpolation.
    box, image_size = (0, 0, 640, 200), (480, 640)
    actual, expected = (crop_logits(crop_label_map(m, box, image_size, (3, 3))) for m in (label_map, other_map))
    for actual_logits, expected_logits in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(actual_logits, expected_logits)


def test_full_crop_with_grid_of_map_size_equals_map() -> None:
    label_map = random_label_map(8)
    patches, _ = crop_logits(crop_label_map(label_map, (0, 0, 90, 60), (60, 90), (6, 6)))
    np.testing.assert_allclose(patches, dense_logits(*label_map), atol=1e-5)


def test_roi_align_weights_sum_to_one() -> None:
    weights = roi_align_weights(2.3, 11.9, 18, 14)
    assert weights.shape == (14, 18) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


def test_token_labels_are_small_with_fixed_shapes() -> None:
    label_map = random_label_map(9, 18, 18)
    labels = crop_label_map(label_map, (5, 6, 200, 300), (375, 500), (14, 14), flip=True)
    shapes = {name: (value.dtype.name, value.shape) for name, value in labels.items()}
    assert shapes == {
        "scores": ("float32", (5, 18, 18)),
        "classes": ("int32", (5, 18, 18)),
        "rows": ("float32", (14, 18)),
        "columns": ("float32", (14, 18)),
        "image_rows": ("float32", (18,)),
        "image_columns": ("float32", (18,)),
    }
    assert sum(value.nbytes for value in labels.values()) < 784_000 / 50
    assert all(value.flags.c_contiguous for value in labels.values())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_read_numpy_file(tmp_path: Path, suffix: str, dtype: type) -> None:
    label_map, path = random_label_map().astype(np.float16), tmp_path / f"a{suffix}"
    np.save(path, label_map.astype(dtype)) if suffix == ".npy" else np.savez_compressed(path, label_map.astype(dtype))
    actual = read_label_map(str(path))
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, label_map.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_read_torch_file(torch, tmp_path: Path, dtype: str) -> None:
    tensor = torch.from_numpy(random_label_map()).to(getattr(torch, dtype))
    torch.save(tensor, tmp_path / "a.pt")
    np.testing.assert_array_equal(read_label_map(str(tmp_path / "a.pt")), tensor.float().numpy())


def test_torch_file_without_tensor_is_rejected(torch, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"map": 1}, path)
    assert one_line_error(path) == f"{path}: expected a label map tensor, got dict"
    path.write_bytes(pickle.dumps(Path))
    assert f"{path}: expected pickle protocol 2" in one_line_error(path)
    path.unlink()
    assert f"{path}: not found" in one_line_error(path)


def test_torch_file_requires_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"any")
    message = one_line_error(tmp_path / "a.pt")
    assert 'requires torch, which is not installed: pip install "tcvit_jax[convert]"' in message


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"PK\x03\x04", pickle.dumps([1])])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_file_is_rejected(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert f"{path}: cannot read the label map: " in one_line_error(path)


def test_damaged_archive_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, random_label_map())
    content = bytearray(path.read_bytes())
    content[200:220] = bytes(20)
    path.write_bytes(content)
    assert f"{path}: cannot read the label map: " in one_line_error(path)


def test_archive_with_two_arrays_is_rejected(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=random_label_map(), y=random_label_map())
    assert one_line_error(tmp_path / "a.npz").endswith("a.npz: expected one label map in the archive, got x, y")


def test_unknown_suffix_is_rejected(tmp_path: Path) -> None:
    assert one_line_error(tmp_path / "a.pth") == "unknown label map suffix '.pth': did you mean '.pt'?"


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 4, 3, 3)), np.zeros((3, 5, 3, 3)), np.zeros((2, 5, 3)), np.zeros((2, 5, 0, 3)), np.array("a")],
)
def test_wrong_shape_or_dtype_is_rejected(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    assert one_line_error(path) == (
        f"{path}: expected a numeric label map [2, 5, h, w], got {array.dtype} {list(array.shape)}"
    )


@pytest.mark.parametrize(
    ("channel", "value", "expected"),
    [
        (0, np.nan, "finite label map values, got NaN, infinity or a float32 overflow"),
        (1, np.inf, "finite label map values, got NaN, infinity or a float32 overflow"),
        (0, 1e300, "finite label map values, got NaN, infinity or a float32 overflow"),
        (1, 0.5, "integer label map classes >= 0 in channel 1"),
        (1, -1, "integer label map classes >= 0 in channel 1"),
    ],
)
def test_invalid_values_are_rejected(tmp_path: Path, channel: int, value: float, expected: str) -> None:
    array = random_label_map().astype(np.float64)
    array[channel, 2, 1, 1] = value
    np.save(tmp_path / "a.npy", array)
    assert one_line_error(tmp_path / "a.npy") == f"{tmp_path / 'a.npy'}: expected {expected}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Directory with the label maps of two images, one .npy and one .npz file."""
    for seed, name in enumerate(("cat/a.npy", "dog/b.c.npz")):
        path = tmp_path / name
        path.parent.mkdir()
        np.save(path, random_label_map(seed)) if path.suffix == ".npy" else np.savez(path, random_label_map(seed))
    return tmp_path


def test_lookup_by_image_name(directory: Path) -> None:
    maps = pickle.loads(pickle.dumps(LabelMaps(str(directory), num_classes=CLASSES)))
    assert maps.size == (6, 6)
    np.testing.assert_array_equal(maps["cat/a.JPEG"], random_label_map(0))
    np.testing.assert_array_equal(maps["dog/b.c.jpg"], random_label_map(1))


def test_missing_map_error_names_image(directory: Path) -> None:
    with pytest.raises(InputError) as error:
        LabelMaps(str(directory))["cat/x.JPEG"]
    expected = f"cat/x.JPEG: label map not found; expected {directory}/cat/x with suffix .npy, .npz, .pt"
    assert str(error.value) == expected


def test_different_map_size_is_rejected(directory: Path) -> None:
    np.save(directory / "dog" / "z.npy", random_label_map(0, 6, 7))
    with pytest.raises(InputError, match=r"z\.npy: expected 6x6 label map cells, as in the first map, got 6x7"):
        LabelMaps(str(directory))["dog/z.png"]


def test_class_out_of_range_is_rejected(directory: Path) -> None:
    assert len(LabelMaps(str(directory))["cat/a.png"]) == 2
    with pytest.raises(InputError, match=r"a\.npy: expected label map classes in 0\.\.9, got class \d+"):
        LabelMaps(str(directory), num_classes=10)["cat/a.png"]


def test_directory_without_maps_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/x: label map directory not found"):
        LabelMaps(str(tmp_path / "x"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("no map")
    with pytest.raises(InputError, match=rf"{tmp_path}: label maps \(\.npy, \.npz, \.pt\) not found"):
        LabelMaps(str(tmp_path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pipe_is_refused_without_opening_it(directory: Path, suffix: str) -> None:
    maps = LabelMaps(str(directory))
    path = directory / "cat" / f"pipe{suffix}"
    os.mkfifo(path)
    with pytest.raises(InputError) as error:
        maps["cat/pipe.JPEG"]
    assert str(error.value) == f"{path}: expected a label map, got a pipe"


def test_large_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        file.truncate(2**26 + 1)
    expected = f"{tmp_path / 'a.npy'}: expected a label map of at most 67,108,864 bytes, got 67,108,865"
    assert one_line_error(tmp_path / "a.npy") == expected
    # A compressed file of 80 kB.
    np.savez_compressed(tmp_path / "b.npz", np.zeros((2, 5, 1000, 2000), np.float32))
    assert one_line_error(tmp_path / "b.npz").endswith(
        "b.npz: expected a label map of at most 67,108,864 bytes, got 80,000,128"
    )
    # A header that claims any number of values.
    with open(tmp_path / "c.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (2, 5, 2**25, 2**25)}
        )
    assert f"{tmp_path / 'c.npy'}: cannot read the label map: " in one_line_error(tmp_path / "c.npy")


def test_module_does_not_import_torch() -> None:
    assert "torch" not in vars(label_maps)

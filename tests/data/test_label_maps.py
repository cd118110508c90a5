"""Tests of label maps: their files, and RoIAlign against torchvision's and against loops."""

import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.data import label_maps
from tcvit_jax.data.label_maps import LabelMaps, TokenLabels, crop_label_map, read_label_map, roi_align_weights
from tcvit_jax.errors import InputError

CLASSES = 30


def label_map(seed: int = 0, height: int = 6, width: int = 6) -> np.ndarray:
    """Five different classes in each cell, with falling scores, as float32 [2, 5, height, width]."""
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(5, 4, (5, height, width)), axis=0)
    return np.stack([scores, rng.random((CLASSES, height, width)).argsort(0)[:5]]).astype(np.float32)


def dense(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float64 [CLASSES, h, w]: 0 wherever a class is not among the five."""
    result = np.zeros((CLASSES, *scores.shape[1:]))
    np.put_along_axis(result, classes.astype(np.int64), scores, axis=0)
    return result


def logits(labels: TokenLabels) -> tuple[np.ndarray, np.ndarray]:
    """What a crop's labels stand for: of the patches [CLASSES, gh, gw], and of the box [CLASSES]."""
    maps = dense(labels["scores"], labels["classes"])
    patches = np.einsum("yh,chw,xw->cyx", labels["rows"], maps, labels["columns"])
    return patches, np.einsum("h,chw,w->c", labels["image_rows"], maps, labels["image_columns"])


def roi_align(maps: np.ndarray, box: tuple[float, ...], bins: tuple[int, int]) -> np.ndarray:
    """RoIAlign of [c, h, w] over (left, top, right, bottom), by its definition, one sample at a time."""
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


def in_cells(box: tuple[int, ...], image: tuple[int, int], cells: tuple[int, int]) -> tuple[float, ...]:
    (height, width), (rows, columns) = image, cells
    left, top, right, bottom = box
    return left / width * columns - 0.5, top / height * rows - 0.5, right / width * columns - 0.5, bottom / height * rows - 0.5  # fmt: skip


@st.composite
def crops(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """A box in an image, of one pixel or more, and the image's (height, width)."""
    height, width = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))), (height, width)


def one_line_error(path: object) -> str:
    with pytest.raises(InputError) as caught:
        read_label_map(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=60)
@given(crops(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_a_crop_is_roi_align_by_its_definition(
    crop: tuple[tuple[int, int, int, int], tuple[int, int]], cells: tuple[int, int], grid: tuple[int, int]
) -> None:
    box, image = crop
    whole = label_map(1, *cells)
    patches, of_image = logits(crop_label_map(whole, box, image, grid))
    where = in_cells(box, image, cells)
    np.testing.assert_allclose(patches, roi_align(dense(*whole), where, grid), atol=2e-5)
    np.testing.assert_allclose(of_image, roi_align(dense(*whole), where, (1, 1))[:, 0, 0], atol=2e-5)


@settings(max_examples=60)
@given(crops(), st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_a_crop_is_torchvisions_roi_align(
    torch, crop: tuple[tuple[int, int, int, int], tuple[int, int]], cells: tuple[int, int]
) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="compares with the optional torchvision")
    box, image = crop
    whole = label_map(2, *cells)
    patches, of_image = logits(crop_label_map(whole, box, image, (14, 14)))
    boxes = torch.tensor([(0.0, *in_cells(box, image, cells))], dtype=torch.float64)
    maps = torch.from_numpy(dense(*whole))[None]
    np.testing.assert_allclose(patches, ops.roi_align(maps, boxes, (14, 14))[0], atol=2e-5)
    np.testing.assert_allclose(of_image, ops.roi_align(maps, boxes, (1, 1))[0, :, 0, 0], atol=2e-5)


@settings(max_examples=30)
@given(crops())
def test_a_flipped_crop_is_the_mirrored_crop_of_the_mirrored_image(
    crop: tuple[tuple[int, int, int, int], tuple[int, int]],
) -> None:
    (left, top, right, bottom), (height, width) = crop
    whole = label_map(3, 5, 8)
    flipped = logits(crop_label_map(whole, (left, top, right, bottom), (height, width), (4, 3), flip=True))
    mirrored = width - right, top, width - left, bottom
    expected = logits(crop_label_map(whole[..., ::-1], mirrored, (height, width), (4, 3)))
    for found, of_mirror in zip(flipped, expected, strict=True):
        np.testing.assert_allclose(found, of_mirror, atol=1e-5)


def test_a_flip_mirrors_the_patches() -> None:
    arguments = label_map(4), (13, 20, 80, 90), (100, 120), (4, 4)
    plain, flipped = logits(crop_label_map(*arguments)), logits(crop_label_map(*arguments, flip=True))
    np.testing.assert_allclose(flipped[0], plain[0][:, :, ::-1], atol=1e-5)
    np.testing.assert_allclose(flipped[1], plain[1], atol=1e-5)


def test_the_top_of_an_image_is_the_first_rows_of_its_map() -> None:
    whole = label_map(5, 8, 8)
    whole[:, :, 4:] = label_map(6, 4, 8)
    changed = whole.copy()
    changed[:, :, 4:] = label_map(7, 4, 8)
    # Linear interpolation reaches over the edge by half a cell.
    box, image = (0, 0, 640, 200), (480, 640)
    for found, other in zip(*(logits(crop_label_map(m, box, image, (3, 3))) for m in (whole, changed)), strict=True):
        np.testing.assert_array_equal(found, other)


def test_a_grid_of_the_maps_size_gives_the_map() -> None:
    whole = label_map(8)
    patches, _ = logits(crop_label_map(whole, (0, 0, 90, 60), (60, 90), (6, 6)))
    np.testing.assert_allclose(patches, dense(*whole), atol=1e-5)


def test_weights_are_means() -> None:
    weights = roi_align_weights(2.3, 11.9, 18, 14)
    assert weights.shape == (14, 18) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


def test_the_labels_of_a_crop_are_small_and_of_fixed_shapes() -> None:
    whole = label_map(9, 18, 18)
    labels = crop_label_map(whole, (5, 6, 200, 300), (375, 500), (14, 14), flip=True)
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
def test_files_of_numpy(tmp_path: Path, suffix: str, dtype: type) -> None:
    whole, path = label_map().astype(np.float16), tmp_path / f"a{suffix}"
    np.save(path, whole.astype(dtype)) if suffix == ".npy" else np.savez_compressed(path, whole.astype(dtype))
    found = read_label_map(str(path))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, whole.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_files_of_torch(torch, tmp_path: Path, dtype: str) -> None:
    tensor = torch.from_numpy(label_map()).to(getattr(torch, dtype))
    torch.save(tensor, tmp_path / "a.pt")
    np.testing.assert_array_equal(read_label_map(str(tmp_path / "a.pt")), tensor.float().numpy())


def test_files_of_torch_that_hold_no_tensor(torch, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"map": 1}, path)
    assert one_line_error(path) == f"label map {path} holds a dict, not a tensor"
    path.write_bytes(pickle.dumps(Path))
    assert f"cannot read label map {path}: " in one_line_error(path)
    path.unlink()
    assert f"cannot read label map {path}: " in one_line_error(path)


def test_files_of_torch_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    message = one_line_error(tmp_path / "a.pt")
    assert 'needs torch, which is not installed: pip install "tcvit_jax[convert]"' in message


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"PK\x03\x04", pickle.dumps([1])])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    assert f"cannot read label map {path}: " in one_line_error(path)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, label_map())
    content = bytearray(path.read_bytes())
    content[200:220] = bytes(20)
    path.write_bytes(content)
    assert f"cannot read label map {path}: " in one_line_error(path)


def test_an_archive_of_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=label_map(), y=label_map())
    assert one_line_error(tmp_path / "a.npz").endswith("a.npz must hold one array, and holds x, y")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    assert one_line_error(tmp_path / "a.pth") == "unknown suffix of a label map '.pth': did you mean '.pt'?"


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 4, 3, 3)), np.zeros((3, 5, 3, 3)), np.zeros((2, 5, 3)), np.zeros((2, 5, 0, 3)), np.array("a")],
)
def test_other_shapes_and_kinds(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    assert one_line_error(path) == f"label map {path} is {array.dtype} {list(array.shape)}, not numbers [2, 5, h, w]"


@pytest.mark.parametrize(
    ("channel", "value", "reason"),
    [
        (0, np.nan, "values that are not finite"),
        (1, np.inf, "values that are not finite"),
        (0, 1e300, "values that are not finite"),
        (1, 0.5, "classes that are no whole numbers from 0 on"),
        (1, -1, "classes that are no whole numbers from 0 on"),
    ],
)
def test_values_that_are_no_labels(tmp_path: Path, channel: int, value: float, reason: str) -> None:
    array = label_map().astype(np.float64)
    array[channel, 2, 1, 1] = value
    np.save(tmp_path / "a.npy", array)
    assert one_line_error(tmp_path / "a.npy") == f"label map {tmp_path / 'a.npy'} has {reason}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Maps of two images, in files of two kinds."""
    for seed, name in enumerate(("cat/a.npy", "dog/b.c.npz")):
        path = tmp_path / name
        path.parent.mkdir()
        np.save(path, label_map(seed)) if path.suffix == ".npy" else np.savez(path, label_map(seed))
    return tmp_path


def test_maps_are_found_by_the_name_of_the_image(directory: Path) -> None:
    maps = pickle.loads(pickle.dumps(LabelMaps(str(directory), classes=CLASSES)))
    assert maps.size == (6, 6)
    np.testing.assert_array_equal(maps["cat/a.JPEG"], label_map(0))
    np.testing.assert_array_equal(maps["dog/b.c.jpg"], label_map(1))


def test_a_missing_map_names_the_image(directory: Path) -> None:
    with pytest.raises(InputError) as caught:
        LabelMaps(str(directory))["cat/x.JPEG"]
    expected = f"image cat/x.JPEG has no label map: there is no {directory}/cat/x with suffix .npy, .npz, .pt"
    assert str(caught.value) == expected


def test_a_map_of_another_size(directory: Path) -> None:
    np.save(directory / "dog" / "z.npy", label_map(0, 6, 7))
    with pytest.raises(InputError, match=r"z\.npy has 6x7 cells, and the others have 6x6"):
        LabelMaps(str(directory))["dog/z.png"]


def test_a_class_out_of_range(directory: Path) -> None:
    assert len(LabelMaps(str(directory))["cat/a.png"]) == 2
    with pytest.raises(InputError, match=r"a\.npy has class \d+, and classes are 0\.\.9"):
        LabelMaps(str(directory), classes=10)["cat/a.png"]


def test_a_directory_without_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"label map directory {tmp_path}/x does not exist"):
        LabelMaps(str(tmp_path / "x"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("no map")
    with pytest.raises(InputError, match=rf"no label maps \(\.npy, \.npz, \.pt\) in {tmp_path}"):
        LabelMaps(str(tmp_path))


def test_importing_it_loads_no_torch() -> None:
    assert "torch" not in vars(label_maps)

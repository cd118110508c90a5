"""Tests of rows with label maps: token labels follow the crop, and no other array of a batch changes."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcvit_jax.data import Batch, EvalTransform, LabelMaps, TokenLabeling, TrainTransform, open_source, train_batches
from tcvit_jax.data.label_maps import crop_label_map
from tcvit_jax.data.rows import LabeledRowReader, RowReader, create_reader
from tcvit_jax.errors import InputError

# (height, width) of the images; no image has the shape of the label maps.
SHAPES = ((40, 60), (60, 40), (50, 50), (90, 30), (33, 47))
CELLS, GRID = (25, 20), (4, 7)
MAP_ARRAYS = {
    "map_scores": ("float32", (5, 25, 20)),
    "map_classes": ("int32", (5, 25, 20)),
    "map_rows": ("float32", (4, 25)),
    "map_columns": ("float32", (7, 20)),
    "map_image_rows": ("float32", (25,)),
    "map_image_columns": ("float32", (20,)),
}


def coordinates(height: int, width: int) -> np.ndarray:
    """Return the x and y coordinates of pixel centers, scaled to 0..255, float64 [2, height, width]."""
    x, y = (255 * (np.arange(side) + 0.5) / side for side in (width, height))
    return np.stack(np.broadcast_arrays(x, y[:, None]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of images and label maps that encode the same coordinates.

    Red and green of the images, and the logits of classes 3 and 5 of the maps, are the x and y coordinates; blue and the
    logit of class 7 are the number of the image.
    """
    root = tmp_path_factory.mktemp("data")
    for number, (height, width) in enumerate(SHAPES):
        name = f"{'ab'[number % 2]}/{number}"
        image = np.concatenate([np.rint(coordinates(height, width)), np.full((1, height, width), number)])
        classes = np.broadcast_to(np.array([3, 5, 7, 8, 9])[:, None, None], (5, *CELLS))
        scores = np.concatenate([coordinates(*CELLS), np.full((1, *CELLS), number), np.zeros((2, *CELLS))])
        for path in (root / "train" / name, root / "maps" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).save(root / "train" / f"{name}.png")
        np.save(root / "maps" / f"{name}.npy", np.stack([scores, classes]).astype(np.float32))
    return root


def token_labeling(folder: Path, grid: tuple[int, int] = GRID) -> TokenLabeling:
    return TokenLabeling(LabelMaps(str(folder / "maps"), num_classes=10), grid)


def take_batches(folder: Path, count: int, transform: TrainTransform | None = None, **options: Any) -> list[Batch]:
    source = open_source("folder", "train", str(folder))
    transform = transform or TrainTransform((28, 28), auto_augment="rand-m9-mstd0.5-inc1")
    stream: Iterator[Batch] = train_batches(source, transform, **({"batch_size": 12, "seed": 3} | options))
    batches = list(islice(stream, count))
    stream.close()
    return batches


def assert_equal_batches(first: list[Batch], second: list[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def test_patch_labels_match_patch_pixels(folder: Path) -> None:
    cell = 8
    transform = TrainTransform((GRID[0] * cell, GRID[1] * cell), interpolation="bilinear", scale=(0.2, 1.0))
    horizontal_flips = set()
    for batch in take_batches(folder, 10, transform, labeling=token_labeling(folder)):
        # Classes 3, 5 and 7 have the ranks 0, 1 and 2 in every cell.
        assert (batch["map_classes"][:, :3, 0, 0] == [3, 5, 7]).all()
        scores = batch["map_scores"][:, :3]
        patches = np.einsum("byh,bchw,bxw->byxc", batch["map_rows"], scores, batch["map_columns"])
        crops = np.einsum("bh,bchw,bw->bc", batch["map_image_rows"], scores, batch["map_image_columns"])
        image = batch["image"].astype(float)
        pixels = image.reshape(-1, GRID[0], cell, GRID[1], cell, 3).mean((2, 4))
        # Tolerances on the scale 0..255: levels are rounded, and a map is constant in the outer half of its outer cells.
        np.testing.assert_allclose(patches, pixels, rtol=0, atol=4)
        np.testing.assert_allclose(crops, image.mean((1, 2)), rtol=0, atol=1.5)
        assert np.abs(patches - pixels).mean() < 0.5
        np.testing.assert_array_equal(np.rint(patches[:, 0, 0, 2]), batch["index"] // 3 + 2 * (batch["index"] % 3))
        horizontal_flips |= set((patches[:, 0, 0, 0] > patches[:, 0, -1, 0]).tolist())
    assert horizontal_flips == {False, True}


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_token_labels_use_the_sampled_box_and_flip(folder: Path, index: int) -> None:
    source, transform = open_source("folder", "train", str(folder)), TrainTransform((16, 16), color_jitter=0.4)
    labeling = token_labeling(folder)
    read_labeled, read_unlabeled = create_reader(source, transform, labeling), create_reader(source, transform, None)
    assert isinstance(read_labeled, LabeledRowReader) and isinstance(read_unlabeled, RowReader)
    for seed in range(8):
        actual, unlabeled_row = (read(index, np.random.default_rng(seed)) for read in (read_labeled, read_unlabeled))
        size = np.asarray(source[index]["image"]).shape[:2]
        augmentation = transform.draw(size, np.random.default_rng(seed))
        label_map = labeling.maps[source.name(index)]
        labels = crop_label_map(label_map, augmentation.box, size, GRID, augmentation.flip)
        expected = unlabeled_row | {f"map_{name}": values for name, values in labels.items()}
        assert set(actual) == set(expected) == set(unlabeled_row) | set(MAP_ARRAYS)
        for name in actual:
            np.testing.assert_array_equal(actual[name], expected[name], strict=True)


@pytest.mark.parametrize("options", [{}, {"repeats": 3}, {"start_step": 5, "process_index": 1, "process_count": 2}])
def test_label_maps_change_no_other_arrays(folder: Path, options: dict[str, Any]) -> None:
    labeled_batches = take_batches(folder, 4, labeling=token_labeling(folder), **options)
    rows = 12 // options.get("process_count", 1)
    for batch in labeled_batches:
        arrays = {name: (batch[name].dtype.name, batch[name].shape) for name in MAP_ARRAYS}
        assert arrays == {name: (dtype, (rows, *shape)) for name, (dtype, shape) in MAP_ARRAYS.items()}
    unlabeled_batches = [{name: batch[name] for name in batch if name not in MAP_ARRAYS} for batch in labeled_batches]
    assert_equal_batches(unlabeled_batches, take_batches(folder, 4, **options))


def test_copies_of_an_image_have_distinct_token_labels(folder: Path) -> None:
    (batch,) = take_batches(folder, 1, labeling=token_labeling(folder), repeats=3)
    first, *others = np.flatnonzero(batch["index"] == batch["index"][0])
    assert len(others) >= 2
    for other in others:
        np.testing.assert_array_equal(batch["map_scores"][other], batch["map_scores"][first])
        assert not np.array_equal(batch["map_rows"][other], batch["map_rows"][first])


def test_token_labels_do_not_depend_on_processes_or_workers(folder: Path) -> None:
    options: dict[str, Any] = {"labeling": token_labeling(folder), "repeats": 2}
    expected = take_batches(folder, 3, **options)
    assert_equal_batches(take_batches(folder, 3, workers=1, **options), expected)
    shards = [take_batches(folder, 3, process_index=p, process_count=3, **options) for p in range(3)]
    actual = [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*shards, strict=True)
    ]
    assert_equal_batches(actual, expected)


def one_line_error(**options: Any) -> str:
    with pytest.raises(InputError) as error:
        train_batches(**({"batch_size": 4, "seed": 0} | options))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_label_maps_require_crops(folder: Path) -> None:
    options: dict[str, Any] = {
        "source": open_source("folder", "train", str(folder)),
        "labeling": token_labeling(folder),
    }
    message = one_line_error(transform=TrainTransform((8, 8), mode="shift"), **options)
    assert message == "token labeling requires augmentation mode 'crop', got 'shift': use 'crop'"
    for transform, name in ((EvalTransform((8, 8)), "EvalTransform"), (one_line_error, "one_line_error")):
        message = one_line_error(transform=transform, **options)
        assert message == f"token labeling requires a TrainTransform, got {name}: use TrainTransform"


def test_label_maps_require_image_names(folder: Path) -> None:
    source = open_source("digits", "train")
    message = one_line_error(source=source, transform=TrainTransform((8, 8), 1), labeling=token_labeling(folder))
    expected = (
        "token labeling requires a source with image names, got DigitsSource: use an image folder, source 'folder'"
    )
    assert message == expected


@pytest.mark.parametrize("grid", [(0, 4), (14,), (3, -1)])
def test_empty_grid_is_rejected(folder: Path, grid: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"grid={grid}: must be (rows, columns), both >= 1")):
        token_labeling(folder, grid)


def test_missing_label_map_error_names_image(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "0.npy", np.zeros((2, 5, 3, 3)))
    with pytest.raises(InputError, match=r"[ab]/[1-4]\.png: label map not found; expected "):
        take_batches(folder, 1, labeling=TokenLabeling(LabelMaps(str(tmp_path)), GRID))

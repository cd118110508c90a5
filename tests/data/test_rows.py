"""Tests of rows with label maps: the map's part is the crop's, and nothing else about a batch changes."""

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
from tcvit_jax.data.rows import LabeledRow, PlainRow, reader
from tcvit_jax.errors import InputError

# (height, width) of the images; the maps have other shapes than all of them.
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


def places(height: int, width: int) -> np.ndarray:
    """float64 [2, height, width]: how far right and how far down each middle is, in 0..255."""
    across, down = (255 * (np.arange(side) + 0.5) / side for side in (width, height))
    return np.stack(np.broadcast_arrays(across, down[:, None]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose red and green tell columns and rows, and maps whose classes 3 and 5 do; blue numbers the images."""
    root = tmp_path_factory.mktemp("labeled")
    for number, (height, width) in enumerate(SHAPES):
        name = f"{'ab'[number % 2]}/{number}"
        image = np.concatenate([np.rint(places(height, width)), np.full((1, height, width), number)])
        classes = np.broadcast_to(np.array([3, 5, 7, 8, 9])[:, None, None], (5, *CELLS))
        scores = np.concatenate([places(*CELLS), np.full((1, *CELLS), number), np.zeros((2, *CELLS))])
        for path in (root / "train" / name, root / "maps" / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).save(root / "train" / f"{name}.png")
        np.save(root / "maps" / f"{name}.npy", np.stack([scores, classes]).astype(np.float32))
    return root


def labeled(folder: Path, grid: tuple[int, int] = GRID) -> TokenLabeling:
    return TokenLabeling(LabelMaps(str(folder / "maps"), classes=10), grid)


def batches_of(folder: Path, count: int, transform: TrainTransform | None = None, **options: Any) -> list[Batch]:
    source = open_source("folder", "train", str(folder))
    transform = transform or TrainTransform((28, 28), auto_augment="rand-m9-mstd0.5-inc1")
    stream: Iterator[Batch] = train_batches(source, transform, **({"batch_size": 12, "seed": 3} | options))
    found = list(islice(stream, count))
    stream.close()
    return found


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def test_the_labels_of_patches_are_of_what_the_patches_show(folder: Path) -> None:
    cell = 8
    transform = TrainTransform((GRID[0] * cell, GRID[1] * cell), interpolation="bilinear", scale=(0.2, 1.0))
    turned = set()
    for batch in batches_of(folder, 10, transform, labeling=labeled(folder)):
        # Classes 3, 5 and 7 have the ranks 0, 1 and 2 in every cell.
        assert (batch["map_classes"][:, :3, 0, 0] == [3, 5, 7]).all()
        scores = batch["map_scores"][:, :3]
        patches = np.einsum("byh,bchw,bxw->byxc", batch["map_rows"], scores, batch["map_columns"])
        whole = np.einsum("bh,bchw,bw->bc", batch["map_image_rows"], scores, batch["map_image_columns"])
        image = batch["image"].astype(float)
        shown = image.reshape(-1, GRID[0], cell, GRID[1], cell, 3).mean((2, 4))
        # Of 0..255: levels are rounded, and a map is constant in the outer half of its outer cells.
        np.testing.assert_allclose(patches, shown, rtol=0, atol=4)
        np.testing.assert_allclose(whole, image.mean((1, 2)), rtol=0, atol=1.5)
        assert np.abs(patches - shown).mean() < 0.5
        np.testing.assert_array_equal(np.rint(patches[:, 0, 0, 2]), batch["index"] // 3 + 2 * (batch["index"] % 3))
        turned |= set((patches[:, 0, 0, 0] > patches[:, 0, -1, 0]).tolist())
    assert turned == {False, True}


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_the_part_is_that_of_the_drawn_box_and_flip(folder: Path, index: int) -> None:
    source, transform = open_source("folder", "train", str(folder)), TrainTransform((16, 16), color_jitter=0.4)
    labeling = labeled(folder)
    row, plain = reader(source, transform, labeling), reader(source, transform, None)
    assert isinstance(row, LabeledRow) and isinstance(plain, PlainRow)
    for seed in range(8):
        found, without = (read(index, np.random.default_rng(seed)) for read in (row, plain))
        size = np.asarray(source[index]["image"]).shape[:2]
        drawn = transform.draw(size, np.random.default_rng(seed))
        expected = crop_label_map(labeling.maps[source.name(index)], drawn.box, size, GRID, drawn.flip)
        assert set(found) == set(without) | {f"map_{name}" for name in expected} == set(without) | set(MAP_ARRAYS)
        for name in found:
            other = without[name] if name in without else expected[name.removeprefix("map_")]
            np.testing.assert_array_equal(found[name], other, strict=True)


@pytest.mark.parametrize("options", [{}, {"repeats": 3}, {"start_step": 5, "process_index": 1, "process_count": 2}])
def test_label_maps_change_nothing_else(folder: Path, options: dict[str, Any]) -> None:
    with_maps = batches_of(folder, 4, labeling=labeled(folder), **options)
    rows = 12 // options.get("process_count", 1)
    for batch in with_maps:
        kinds = {name: (batch[name].dtype.name, batch[name].shape) for name in MAP_ARRAYS}
        assert kinds == {name: (dtype, (rows, *shape)) for name, (dtype, shape) in MAP_ARRAYS.items()}
    plain = [{name: batch[name] for name in batch if name not in MAP_ARRAYS} for batch in with_maps]
    assert_same(plain, batches_of(folder, 4, **options))


def test_copies_of_an_image_have_labels_of_their_own(folder: Path) -> None:
    (batch,) = batches_of(folder, 1, labeling=labeled(folder), repeats=3)
    first, *others = np.flatnonzero(batch["index"] == batch["index"][0])
    assert len(others) >= 2
    for other in others:
        np.testing.assert_array_equal(batch["map_scores"][other], batch["map_scores"][first])
        assert not np.array_equal(batch["map_rows"][other], batch["map_rows"][first])


def test_neither_worker_processes_nor_processes_change_labels(folder: Path) -> None:
    options: dict[str, Any] = {"labeling": labeled(folder), "repeats": 2}
    alone = batches_of(folder, 3, **options)
    assert_same(batches_of(folder, 3, workers=1, **options), alone)
    parts = [batches_of(folder, 3, process_index=p, process_count=3, **options) for p in range(3)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same(joined, alone)


def one_line_error(**options: Any) -> str:
    with pytest.raises(InputError) as caught:
        train_batches(**({"batch_size": 4, "seed": 0} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_label_maps_need_crops(folder: Path) -> None:
    options: dict[str, Any] = {"source": open_source("folder", "train", str(folder)), "labeling": labeled(folder)}
    message = one_line_error(transform=TrainTransform((8, 8), mode="shift"), **options)
    assert message == "label maps follow the crops of augmentation mode 'crop', and not 'shift': use 'crop'"
    for transform, name in ((EvalTransform((8, 8)), "EvalTransform"), (one_line_error, "one_line_error")):
        message = one_line_error(transform=transform, **options)
        assert message == f"label maps follow the crops of a TrainTransform, and not {name}: use TrainTransform"


def test_label_maps_need_names(folder: Path) -> None:
    source = open_source("digits", "train")
    message = one_line_error(source=source, transform=TrainTransform((8, 8), 1), labeling=labeled(folder))
    assert re.fullmatch(r"label maps are found by .* DigitsSource has not: use a folder of images, .*", message)


@pytest.mark.parametrize("grid", [(0, 4), (14,), (3, -1)])
def test_a_grid_without_patches_is_refused(folder: Path, grid: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"grid {grid} of patches must be (rows, columns), both 1 or more")):
        labeled(folder, grid)


def test_an_image_without_a_map_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "0.npy", np.zeros((2, 5, 3, 3)))
    with pytest.raises(InputError, match=r"image [ab]/[1-4]\.png has no label map: there is no "):
        batches_of(folder, 1, labeling=TokenLabeling(LabelMaps(str(tmp_path)), GRID))

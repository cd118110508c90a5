"""Tests of the input pipeline: order of training batches, and evaluation of every example exactly once."""

import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tcvit_jax.data import (
    Batch,
    EvalTransform,
    Example,
    TrainTransform,
    eval_batches,
    open_source,
    train_batches,
)
from tcvit_jax.errors import InputError, cannot_read

few_examples = settings(max_examples=10)
# Grain's shuffle takes milliseconds per row for 2 to 20 examples, and microseconds for a thousand or more.
LENGTHS = st.one_of(st.just(1), st.integers(20, 60))


class NumberedSource:
    """Source of 2x2 images filled with their index, and labels of ten times the index."""

    classes = ("any",)

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"image": np.full((2, 2, 1), index, np.uint8), "label": 10 * index}


def identity(image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    return image


def add_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace the second row by random bytes, so that equal batches imply equal augmentation."""
    return np.concatenate([image[:1], rng.integers(0, 256, (1, 2, 1), np.uint8)])


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    result = list(islice(batches, count))
    batches.close()
    return result


def assert_equal_batches(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def concatenate_shards(shards: list[list[Batch]]) -> list[Batch]:
    """Return the global batches of the shards of all processes."""
    return [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]}
        for step in zip(*shards, strict=True)
    ]


def test_training_batch_shapes_and_dtypes() -> None:
    (batch,) = take(train_batches(NumberedSource(9), add_noise, batch_size=4, seed=0), 1)
    assert batch["image"].shape == (4, 2, 2, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4,) and batch["label"].dtype == np.int32
    assert batch["index"].shape == (4,) and batch["index"].dtype == np.int64
    np.testing.assert_array_equal(batch["label"], 10 * batch["image"][:, 0, 0, 0].astype(int))


def test_indices_match_the_source_in_every_epoch() -> None:
    for batch in take(train_batches(NumberedSource(23), add_noise, batch_size=16, seed=0, start_step=5), 4):
        np.testing.assert_array_equal(batch["index"], batch["image"][:, 0, 0, 0])
        np.testing.assert_array_equal(10 * batch["index"], batch["label"])


@pytest.mark.parametrize(("mode", "expected"), [("crop", "00ef2a3c6e9d7c04"), ("shift", "8e714dfc00b26c19")])
def test_batches_match_golden_digests(mode: str, expected: str) -> None:
    """Digests of batches from earlier versions, so that interrupted runs resume identically."""
    source, transform = open_source("digits", "train"), TrainTransform((16, 16), channels=1, mode=mode)
    digest = hashlib.sha256()
    for batch in take(train_batches(source, transform, batch_size=100, seed=7, start_step=9), 8):
        digest.update(batch["image"].tobytes())
        digest.update(batch["label"].tobytes())
    assert digest.hexdigest()[:16] == expected


@few_examples
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 3))
def test_batch_depends_only_on_seed_and_step(length: int, batch_size: int, seed: int, start: int, threads: int) -> None:
    source = NumberedSource(length)
    expected = take(train_batches(source, add_noise, batch_size=batch_size, seed=seed, threads=0), start + 3)
    resumed_batches = train_batches(
        source, add_noise, batch_size=batch_size, seed=seed, start_step=start, threads=threads
    )
    assert_equal_batches(take(resumed_batches, 3), expected[start:])


@few_examples
@given(LENGTHS, st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 3), st.integers(1, 3))
def test_shards_of_processes_form_the_global_batch(
    length: int, factor: int, processes: int, start: int, repeats: int
) -> None:
    options: dict[str, Any] = {"batch_size": 12 * factor, "seed": 5, "threads": 0, "repeats": repeats}
    source = NumberedSource(length)
    expected = take(train_batches(source, add_noise, **options), start + 3)[start:]
    options |= {"start_step": start, "process_count": processes}
    shards = [take(train_batches(source, add_noise, process_index=p, **options), 3) for p in range(processes)]
    assert all(len(batch["label"]) == 12 * factor // processes for shard in shards for batch in shard)
    assert_equal_batches(concatenate_shards(shards), expected)


@few_examples
@given(st.integers(20, 60), st.integers(2, 5), st.integers(0, 30), st.integers(0, 5), st.integers(0, 2))
def test_repeated_images_are_augmented_independently(
    length: int, repeats: int, extra: int, start: int, threads: int
) -> None:
    batch_size = 3 * repeats + extra
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 2, "repeats": repeats}
    batches = take(train_batches(NumberedSource(length), add_noise, threads=0, **options), start + 4)
    resumed_batches = train_batches(NumberedSource(length), add_noise, start_step=start, threads=threads, **options)
    assert_equal_batches(take(resumed_batches, 4), batches[start:])
    # Undo the interleaving of rows: every epoch then has every image, `repeats` times in a row.
    order = [row for first in range(repeats) for row in range(first, batch_size, repeats)]
    stream = np.concatenate([batch["index"][np.argsort(order)] for batch in batches])
    copies = stream[: len(stream) // repeats * repeats].reshape(-1, repeats)
    assert (copies == copies[:, :1]).all()
    for epoch in range(len(copies) // length):
        assert sorted(copies[epoch * length : (epoch + 1) * length, 0]) == list(range(length))
    # Copies differ in their augmentation, because no two rows share a generator.
    assert len({image[1].tobytes() for batch in batches for image in batch["image"]}) > 0.99 * len(stream)


@pytest.mark.parametrize("repeats", [2, 3, 4, 5])
def test_copies_are_never_adjacent(repeats: int) -> None:
    batch_sizes = []
    for batch_size in range(2, 4 * repeats):
        options: dict[str, Any] = {"batch_size": batch_size, "seed": 0, "repeats": repeats, "threads": 0}
        try:
            # There are more examples than rows, so that equal indices are copies.
            batches = take(train_batches(NumberedSource(250), identity, **options), 2 * repeats)
        except InputError:
            continue
        batch_sizes.append(batch_size)
        assert all((batch["index"][1:] != batch["index"][:-1]).all() for batch in batches)
    assert set(batch_sizes) >= set(range(3 * repeats - 1, 4 * repeats))


def test_copies_share_a_batch_and_spread_over_processes() -> None:
    (batch,) = take(train_batches(NumberedSource(60), identity, batch_size=24, seed=0, repeats=3), 1)
    assert sorted(Counter(batch["index"].tolist()).values()) == [3] * 8
    for shard in batch["index"].reshape(3, 8):
        assert len(set(shard)) == 8


def test_every_epoch_is_a_different_permutation() -> None:
    batches = take(train_batches(NumberedSource(60), identity, batch_size=20, seed=1), 9)
    labels = np.concatenate([batch["label"] for batch in batches]).reshape(3, 60)
    for epoch in labels:
        assert sorted(epoch) == [10 * index for index in range(60)]
    assert not np.array_equal(labels[0], labels[1]) and not np.array_equal(labels[1], labels[2])


def test_seed_changes_order_and_augmentation() -> None:
    first, second = (take(train_batches(NumberedSource(60), add_noise, batch_size=60, seed=s), 1)[0] for s in (0, 1))
    assert not np.array_equal(first["label"], second["label"])
    noise = [{image[1].tobytes() for image in batch["image"]} for batch in (first, second)]
    assert len(noise[0] & noise[1]) < 5


def test_rows_of_a_batch_have_distinct_generators() -> None:
    # With a single example, rows differ only in their augmentation. There are two processes.
    options: dict[str, Any] = {"batch_size": 32, "seed": 0, "process_count": 2}
    shards = [
        take(train_batches(NumberedSource(1), add_noise, process_index=p, **options), 1)[0]["image"] for p in range(2)
    ]
    assert len({image.tobytes() for image in np.concatenate(shards)}) == 32


def test_batch_can_be_larger_than_the_data() -> None:
    (batch,) = take(train_batches(NumberedSource(3), identity, batch_size=7, seed=0), 1)
    assert sorted(Counter(batch["label"].tolist()).values()) in ([2, 2, 3], [1, 3, 3])


@few_examples
@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.integers(0, 2))
def test_evaluation_yields_every_example_once(length: int, rows: int, processes: int, threads: int) -> None:
    batch_size = rows * processes
    shards = [
        list(
            eval_batches(
                NumberedSource(length),
                identity,
                batch_size=batch_size,
                process_index=p,
                process_count=processes,
                threads=threads,
            )
        )
        for p in range(processes)
    ]
    steps = -(-length // batch_size)
    assert all(len(shard) == steps for shard in shards)
    batches = concatenate_shards(shards)
    images, labels, mask = (np.concatenate([b[name] for b in batches]) for name in ("image", "label", "mask"))
    assert images.dtype == np.uint8 and labels.dtype == np.int32 and mask.dtype == np.float32
    padding = steps * batch_size - length
    np.testing.assert_array_equal(mask, [1] * length + [0] * padding)
    np.testing.assert_array_equal(labels, [10 * index for index in range(length)] + [0] * padding)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [*range(length)] + [0] * padding)


def test_worker_processes_do_not_change_batches() -> None:
    source, transform = open_source("digits", "train"), TrainTransform((16, 16), channels=1, mode="shift")
    options: dict[str, Any] = {"batch_size": 32, "seed": 3, "start_step": 40}
    expected = take(train_batches(source, transform, **options), 5)
    actual = take(train_batches(source, transform, workers=2, **options), 5)
    assert_equal_batches(actual, expected)
    transform = TrainTransform((16, 16), 1, "random", auto_augment="rand-m9-mstd0.5-inc1")
    options |= {"repeats": 3, "process_index": 1, "process_count": 2}
    first, second = (take(train_batches(source, transform, workers=count, **options), 3) for count in (0, 1))
    assert_equal_batches(first, second)
    # Batches are copied to plain arrays; those in shared memory would warn when the interpreter exits.
    assert all(type(array) is np.ndarray for batch in actual for array in batch.values())


def test_evaluation_in_worker_processes_ends_and_raises_errors(tmp_path: Path) -> None:
    directory = tmp_path / "val" / "a"
    directory.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(directory / f"{number}.png")
    source, transform = open_source("folder", "val", str(tmp_path)), EvalTransform((8, 8), crop_pct=1.0)
    batches = list(eval_batches(source, transform, batch_size=2, workers=1))
    assert [int(image[0, 0, 0]) for batch in batches for image in batch["image"]] == [0, 1, 2, 3, 4, 0]
    (directory / "3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"3\.png: cannot read image: the file is empty") as error:
        list(eval_batches(source, transform, batch_size=2, workers=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, 2])
def test_unreadable_image_raises_input_error(threads: int) -> None:
    def failing_transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise cannot_read("x.png", "the file is empty")

    batches = train_batches(NumberedSource(3), failing_transform, batch_size=2, seed=0, threads=threads)
    with pytest.raises(InputError) as error:
        next(batches)
    assert str(error.value) == "x.png: the file is empty"


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


@pytest.mark.parametrize("method", ["close", "delete"])
def test_closing_or_deleting_iterator_stops_threads(method: str) -> None:
    batches = train_batches(NumberedSource(9), identity, batch_size=4, seed=0, threads=2)
    next(batches)
    threads = prefetch_threads()
    assert threads
    if method == "close":
        batches.close()
    else:
        del batches
        gc.collect()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "process_count": 4}, "batch_size=10: must be divisible by process_count=4; use 8"),
        ({"batch_size": 1, "process_count": 4}, "batch_size=1: must be divisible by process_count=4; use 4"),
        ({"batch_size": 0}, "batch_size=0: must be >= 1"),
        ({"process_count": 0}, "process_count=0: must be >= 1"),
        ({"process_index": 2, "process_count": 2}, r"process_index=2: must be in \[0, 2\)"),
        ({"workers": -1}, "workers=-1: must be >= 0"),
        ({"threads": -1}, "threads=-1: must be >= 0"),
        ({"source": NumberedSource(0)}, "data source: expected at least one example, got 0"),
    ],
)
def test_invalid_arguments_are_rejected_before_iteration(options: dict[str, Any], message: str) -> None:
    arguments = {"source": NumberedSource(5), "transform": identity, "batch_size": 8} | options
    for create_batches, seed in ((train_batches, {"seed": 0}), (eval_batches, {})):
        with pytest.raises(InputError, match=message) as error:
            create_batches(**arguments, **seed)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"start_step": -1}, {"seed": -1}, {"seed": 2**32}, {"repeats": 0}])
def test_invalid_training_arguments_are_rejected(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        train_batches(NumberedSource(5), identity, **({"batch_size": 4, "seed": 0} | options))


@pytest.mark.parametrize(
    ("batch_size", "repeats", "processes", "larger"), [(4, 3, 1, 6), (4, 3, 4, 8), (2, 2, 2, 4), (7, 4, 1, 8)]
)
def test_batch_too_small_for_repeats_is_rejected(batch_size: int, repeats: int, processes: int, larger: int) -> None:
    options = {"batch_size": batch_size, "repeats": repeats, "process_count": processes}
    with pytest.raises(
        InputError, match=f"batch_size={batch_size}: must be .* not adjacent with repeats={repeats}; use {larger}$"
    ) as error:
        train_batches(NumberedSource(5), identity, seed=0, **options)
    assert "\n" not in str(error.value)
    train_batches(NumberedSource(5), identity, seed=0, **(options | {"batch_size": larger})).close()

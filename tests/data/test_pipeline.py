"""Tests of the pipeline: the order of training batches, and that evaluation counts each example once."""

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
from tcvit_jax.errors import InputError

few = settings(max_examples=10)
# Grain's shuffle takes milliseconds per row for 2 to 20 examples, and microseconds from a thousand on.
LENGTHS = st.one_of(st.just(1), st.integers(20, 60))


class Numbered:
    """Images of 2x2 pixels that all hold the number of their example, and labels ten times that."""

    classes = ("any",)

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return {"image": np.full((2, 2, 1), index, np.uint8), "label": 10 * index}


def plain(image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    return image


def stamp(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replaces the second row by random bytes: two equal batches were augmented equally."""
    return np.concatenate([image[:1], rng.integers(0, 256, (1, 2, 1), np.uint8)])


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    first = list(islice(batches, count))
    batches.close()
    return first


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def joined(parts: list[list[Batch]]) -> list[Batch]:
    """Global batches of the parts that several processes have, one after the other."""
    return [
        {name: np.concatenate([batch[name] for batch in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]


def test_training_batches_have_the_promised_types() -> None:
    (batch,) = take(train_batches(Numbered(9), stamp, batch_size=4, seed=0), 1)
    assert batch["image"].shape == (4, 2, 2, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4,) and batch["label"].dtype == np.int32
    assert batch["index"].shape == (4,) and batch["index"].dtype == np.int64
    np.testing.assert_array_equal(batch["label"], 10 * batch["image"][:, 0, 0, 0].astype(int))


def test_indices_are_those_of_the_source_in_every_epoch() -> None:
    for batch in take(train_batches(Numbered(23), stamp, batch_size=16, seed=0, start_step=5), 4):
        np.testing.assert_array_equal(batch["index"], batch["image"][:, 0, 0, 0])
        np.testing.assert_array_equal(10 * batch["index"], batch["label"])


@pytest.mark.parametrize(("mode", "expected"), [("crop", "00ef2a3c6e9d7c04"), ("shift", "8e714dfc00b26c19")])
def test_batches_are_what_they_always_were(mode: str, expected: str) -> None:
    """Of one process, without what is new: runs that began before go on as they were."""
    source, transform = open_source("digits", "train"), TrainTransform((16, 16), channels=1, mode=mode)
    found = hashlib.sha256()
    for batch in take(train_batches(source, transform, batch_size=100, seed=7, start_step=9), 8):
        found.update(batch["image"].tobytes())
        found.update(batch["label"].tobytes())
    assert found.hexdigest()[:16] == expected


@few
@given(LENGTHS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 3))
def test_a_batch_depends_on_seed_and_step_alone(
    length: int, batch_size: int, seed: int, start: int, threads: int
) -> None:
    source = Numbered(length)
    whole = take(train_batches(source, stamp, batch_size=batch_size, seed=seed, threads=0), start + 3)
    resumed = train_batches(source, stamp, batch_size=batch_size, seed=seed, start_step=start, threads=threads)
    assert_same(take(resumed, 3), whole[start:])


@few
@given(LENGTHS, st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 3), st.integers(1, 3))
def test_processes_share_one_global_batch(length: int, factor: int, processes: int, start: int, repeats: int) -> None:
    options: dict[str, Any] = {"batch_size": 12 * factor, "seed": 5, "threads": 0, "repeats": repeats}
    source = Numbered(length)
    alone = take(train_batches(source, stamp, **options), start + 3)[start:]
    options |= {"start_step": start, "process_count": processes}
    parts = [take(train_batches(source, stamp, process_index=p, **options), 3) for p in range(processes)]
    assert all(len(batch["label"]) == 12 * factor // processes for part in parts for batch in part)
    assert_same(joined(parts), alone)


@few
@given(st.integers(20, 60), st.integers(2, 5), st.integers(0, 30), st.integers(0, 5), st.integers(0, 2))
def test_repeated_images_fill_rows_of_their_own(length: int, repeats: int, more: int, start: int, threads: int) -> None:
    batch_size = 3 * repeats + more
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 2, "repeats": repeats}
    batches = take(train_batches(Numbered(length), stamp, threads=0, **options), start + 4)
    resumed = train_batches(Numbered(length), stamp, start_step=start, threads=threads, **options)
    assert_same(take(resumed, 4), batches[start:])
    # Every epoch of images is whole, each `repeats` times, in rows of the batches put in order again.
    order = [row for first in range(repeats) for row in range(first, batch_size, repeats)]
    stream = np.concatenate([batch["index"][np.argsort(order)] for batch in batches])
    whole = stream[: len(stream) // repeats * repeats].reshape(-1, repeats)
    assert (whole == whole[:, :1]).all()
    for epoch in range(len(whole) // length):
        assert sorted(whole[epoch * length : (epoch + 1) * length, 0]) == list(range(length))
    # Copies differ by their augmentation: no two rows share a generator.
    assert len({image[1].tobytes() for batch in batches for image in batch["image"]}) > 0.99 * len(stream)


@pytest.mark.parametrize("repeats", [2, 3, 4, 5])
def test_copies_are_never_neighbours(repeats: int) -> None:
    allowed = []
    for batch_size in range(2, 4 * repeats):
        options: dict[str, Any] = {"batch_size": batch_size, "seed": 0, "repeats": repeats, "threads": 0}
        try:
            # Of so many examples that none comes twice: equal indices are copies.
            batches = take(train_batches(Numbered(250), plain, **options), 2 * repeats)
        except InputError:
            continue
        allowed.append(batch_size)
        assert all((batch["index"][1:] != batch["index"][:-1]).all() for batch in batches)
    assert set(allowed) >= set(range(3 * repeats - 1, 4 * repeats))


def test_copies_share_a_batch_and_are_shared_out_to_processes() -> None:
    (batch,) = take(train_batches(Numbered(60), plain, batch_size=24, seed=0, repeats=3), 1)
    assert sorted(Counter(batch["index"].tolist()).values()) == [3] * 8
    for part in batch["index"].reshape(3, 8):
        assert len(set(part)) == 8


def test_every_epoch_holds_every_example_in_another_order() -> None:
    batches = take(train_batches(Numbered(60), plain, batch_size=20, seed=1), 9)
    labels = np.concatenate([batch["label"] for batch in batches]).reshape(3, 60)
    for epoch in labels:
        assert sorted(epoch) == [10 * index for index in range(60)]
    assert not np.array_equal(labels[0], labels[1]) and not np.array_equal(labels[1], labels[2])


def test_another_seed_gives_another_order_and_augmentation() -> None:
    first, second = (take(train_batches(Numbered(60), stamp, batch_size=60, seed=s), 1)[0] for s in (0, 1))
    assert not np.array_equal(first["label"], second["label"])
    both = [{image[1].tobytes() for image in batch["image"]} for batch in (first, second)]
    assert len(both[0] & both[1]) < 5


def test_no_two_rows_of_a_batch_share_a_generator() -> None:
    # One example only, so that rows can differ by their augmentation alone; two processes.
    options: dict[str, Any] = {"batch_size": 32, "seed": 0, "process_count": 2}
    parts = [take(train_batches(Numbered(1), stamp, process_index=p, **options), 1)[0]["image"] for p in range(2)]
    assert len({image.tobytes() for image in np.concatenate(parts)}) == 32


def test_a_batch_may_be_larger_than_the_data() -> None:
    (batch,) = take(train_batches(Numbered(3), plain, batch_size=7, seed=0), 1)
    assert sorted(Counter(batch["label"].tolist()).values()) in ([2, 2, 3], [1, 3, 3])


@few
@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.integers(0, 2))
def test_evaluation_counts_every_example_once(length: int, per: int, processes: int, threads: int) -> None:
    batch_size = per * processes
    parts = [
        list(
            eval_batches(
                Numbered(length),
                plain,
                batch_size=batch_size,
                process_index=p,
                process_count=processes,
                threads=threads,
            )
        )
        for p in range(processes)
    ]
    steps = -(-length // batch_size)
    assert all(len(part) == steps for part in parts)
    merged = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]} for step in range(steps)
    ]
    images, labels, mask = (np.concatenate([b[name] for b in merged]) for name in ("image", "label", "mask"))
    assert images.dtype == np.uint8 and labels.dtype == np.int32 and mask.dtype == np.float32
    padding = steps * batch_size - length
    np.testing.assert_array_equal(mask, [1] * length + [0] * padding)
    np.testing.assert_array_equal(labels, [10 * index for index in range(length)] + [0] * padding)
    np.testing.assert_array_equal(images[:, 0, 0, 0], [*range(length)] + [0] * padding)


def test_worker_processes_change_nothing() -> None:
    source, transform = open_source("digits", "train"), TrainTransform((16, 16), channels=1, mode="shift")
    options: dict[str, Any] = {"batch_size": 32, "seed": 3, "start_step": 40}
    alone = take(train_batches(source, transform, **options), 5)
    shared = take(train_batches(source, transform, workers=2, **options), 5)
    assert_same(alone, shared)
    richer = TrainTransform((16, 16), 1, "random", auto_augment="rand-m9-mstd0.5-inc1")
    options |= {"repeats": 3, "process_index": 1, "process_count": 2}
    first, second = (take(train_batches(source, richer, workers=count, **options), 3) for count in (0, 1))
    assert_same(first, second)
    # Plain arrays: those in shared memory would warn when the interpreter exits.
    assert all(type(array) is np.ndarray for batch in shared for array in batch.values())


def test_evaluation_in_worker_processes_ends_and_reports_mistakes(tmp_path: Path) -> None:
    directory = tmp_path / "val" / "a"
    directory.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(directory / f"{number}.png")
    source, transform = open_source("folder", "val", str(tmp_path)), EvalTransform((8, 8), crop_pct=1.0)
    batches = list(eval_batches(source, transform, batch_size=2, workers=1))
    assert [int(image[0, 0, 0]) for batch in batches for image in batch["image"]] == [0, 1, 2, 3, 4, 0]
    (directory / "3.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"3\.png: cannot read image: the file is empty") as caught:
        list(eval_batches(source, transform, batch_size=2, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unreadable_image_is_an_input_error(threads: int) -> None:
    def broken(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise InputError("cannot read image x.png: the file is empty")

    batches = train_batches(Numbered(3), broken, batch_size=2, seed=0, threads=threads)
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == "cannot read image x.png: the file is empty"


def prefetching_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


@pytest.mark.parametrize("way", ["close", "drop"])
def test_stopping_releases_the_threads(way: str) -> None:
    batches = train_batches(Numbered(9), plain, batch_size=4, seed=0, threads=2)
    next(batches)
    started = prefetching_threads()
    assert started
    if way == "close":
        batches.close()
    else:
        del batches
        gc.collect()
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "process_count": 4}, "batch_size 10 .* 4 processes: the nearest that can is 8"),
        ({"batch_size": 1, "process_count": 4}, "the nearest that can is 4"),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more"),
        ({"process_count": 0}, "process_count 0 must be 1 or more"),
        ({"process_index": 2, "process_count": 2}, r"process_index 2 must be in 0\.\.1"),
        ({"workers": -1}, "workers -1 must be 0 or more"),
        ({"threads": -1}, "threads -1 must be 0 or more"),
        ({"source": Numbered(0)}, "the data source is empty"),
    ],
)
def test_mistakes_are_found_at_once(options: dict[str, Any], message: str) -> None:
    merged = {"source": Numbered(5), "transform": plain, "batch_size": 8} | options
    for make, more in ((train_batches, {"seed": 0}), (eval_batches, {})):
        with pytest.raises(InputError, match=message) as caught:
            make(**merged, **more)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"start_step": -1}, {"seed": -1}, {"seed": 2**32}, {"repeats": 0}])
def test_mistakes_in_training_options(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        train_batches(Numbered(5), plain, **({"batch_size": 4, "seed": 0} | options))


@pytest.mark.parametrize(
    ("batch_size", "repeats", "processes", "nearest"), [(4, 3, 1, 6), (4, 3, 4, 8), (2, 2, 2, 4), (7, 4, 1, 8)]
)
def test_a_batch_too_small_for_its_repeats_is_refused(
    batch_size: int, repeats: int, processes: int, nearest: int
) -> None:
    options = {"batch_size": batch_size, "repeats": repeats, "process_count": processes}
    with pytest.raises(InputError, match=f"batch_size {batch_size} is too small .* is {nearest}$") as caught:
        train_batches(Numbered(5), plain, seed=0, **options)
    assert "\n" not in str(caught.value)
    train_batches(Numbered(5), plain, seed=0, **(options | {"batch_size": nearest})).close()

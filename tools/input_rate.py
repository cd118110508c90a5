"""Compare the input pipeline with Pillow on one core, TFRecord with and without checksums, and one and two workers.

python tools/input_rate.py --rounds 15 --workers 5

The Pillow baseline is a loop that reads the JPEGs of a folder, crops, resizes, flips and applies augmentations that
were sampled in advance. The pipeline is `train_batches` on the same folder in the same thread. Both are pinned to one
core and take turns. Times are CPU times, so that other processes have little influence, and ratios compare adjacent
turns. Images are noise with the spectrum of photographs. In the same way, the pipeline reads the JPEGs from a TFRecord
file, with and without verifying its checksums.

Then one and two worker processes take turns on two cores. These are wall-clock times, which are only meaningful on an
idle machine. The CPU-time limit also holds on a busy machine: with CPU time w per image in a worker and m in the
receiving process, two cores give at most 2 w / (w + m) times the throughput of one worker. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from tcvit_jax.command import Command
from tcvit_jax.data import Source, TrainTransform, open_source, operations, train_batches
from tcvit_jax.data.sources.record_index import masked_crc32c

SIZE = (375, 500)
NAMES_PER_IMAGE = 50
TRANSFORMS = {
    "crop and flip": TrainTransform((224, 224)),
    "crop, flip and RandAugment": TrainTransform((224, 224), auto_augment="rand-m9-mstd0.5-inc1"),
}


def random_image(seed: int) -> np.ndarray:
    """Return an image with the average spectrum and correlated colors of photographs, uint8 `[375, 500, 3]`."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.fftfreq(SIZE[1]))
    waves = np.fft.fft2(rng.standard_normal((3, *SIZE))) / (0.004 + frequency) ** 1.35
    channels = np.real(np.fft.ifft2(waves))
    channels /= channels.std(axis=(1, 2), keepdims=True)
    gradient = np.linspace(-1, 1, SIZE[1]) * rng.normal() + np.linspace(-1, 1, SIZE[0])[:, None] * rng.normal()
    pixels = channels[:1] + 0.25 * channels + 0.5 * gradient
    return np.clip(120 + 45 * pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def make_folder(directory: str, count: int) -> tuple[list[str], float]:
    """Write images, each linked under `NAMES_PER_IMAGE` names so that shuffling costs as much as in large datasets.

    Args:
        directory: The directory of the image folder.
        count: The number of different images.

    Returns:
        The paths, and the mean size of a file in kB.
    """
    folder = Path(directory) / "train" / "any"
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.jpg" for number in range(NAMES_PER_IMAGE * count)]
    for number, path in enumerate(paths):
        if number < count:
            Image.fromarray(random_image(number)).save(path, quality=87)
        else:
            os.link(paths[number % count], path)
    return [str(path) for path in paths], float(np.mean([path.stat().st_size for path in paths])) / 1000


def make_records(directory: str, paths: list[str]) -> None:
    """Write the images to the TFRecord file `directory/train.tfrecord`.

    Args:
        directory: The directory.
        paths: The paths of the images.
    """
    (Path(directory) / "labels.txt").write_text("any\n")
    with open(Path(directory) / "train.tfrecord", "wb") as file:
        for path in paths:
            example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
            example.features.feature["image/encoded"].bytes_list.value.append(Path(path).read_bytes())
            example.features.feature["image/class/label"].int64_list.value.append(0)
            payload = example.SerializeToString()
            length = struct.pack("<Q", len(payload))
            checksums = [struct.pack("<I", masked_crc32c(data)) for data in (length, payload)]
            file.write(length + checksums[0] + payload + checksums[1])


def pillow_turn(paths: list[str], transform: TrainTransform, count: int) -> Callable[[], float]:
    """Return a function that processes the next `count` images with Pillow and returns its CPU seconds."""
    rng, height, width = np.random.default_rng(0), *transform.size
    samples = [(paths[rng.integers(len(paths))], transform.draw(SIZE, rng)) for _ in range(20 * count)]
    turn_numbers = iter(range(10**9))
    fill = operations.fill_color(transform.mean, 3)

    def turn() -> float:
        first = next(turn_numbers) * count
        start = time.process_time()
        for number in range(first, first + count):
            path, augmentation = samples[number % len(samples)]
            with Image.open(path) as file:
                image = file.crop(augmentation.box).resize((width, height), Image.Resampling.BICUBIC)
            if augmentation.flip:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            operations.apply(image, augmentation.operations, fill)
        return time.process_time() - start

    return turn


def pipeline_turn(source: Source, transform: TrainTransform, count: int, batch_size: int) -> Callable[[], float]:
    """Return a function that processes `count` images with the pipeline in this thread and returns its CPU seconds."""
    batches = train_batches(source, transform, batch_size=batch_size, seed=0, threads=0)
    next(batches)

    def turn() -> float:
        start = time.process_time()
        for _ in range(count // batch_size):
            next(batches)
        return time.process_time() - start

    return turn


def time_workers(source: Source, transform: TrainTransform, batch_size: int, workers: int, batches: int) -> np.ndarray:
    """Measure the time per batch of worker processes, after the batches that they buffered at the start.

    Args:
        source: The images.
        transform: The augmentation.
        batch_size: The number of images in a batch.
        workers: The number of worker processes.
        batches: The number of batches that are timed.

    Returns:
        Wall-clock seconds, CPU seconds of all workers, and CPU seconds of this process, each per batch: `[3]`.
    """
    stream = train_batches(source, transform, batch_size=batch_size, seed=0, workers=workers, threads=1)
    for _ in range(6 * workers):
        next(stream)
    children = [child.pid for child in multiprocessing.active_children()]

    def clocks() -> np.ndarray:
        return np.array([time.perf_counter(), sum(cpu_seconds(child) for child in children), time.process_time()])

    start = clocks()
    for _ in range(batches):
        next(stream)
    seconds = (clocks() - start) / batches
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    return seconds


def cpu_seconds(process: int | None) -> float:
    """Return the CPU time of another process in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(name: str, rates: np.ndarray, ratios: np.ndarray) -> str:
    """Return a row of the table: images/s, and the median and quartiles of the ratio."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"| {name} | {', '.join(f'{rate:.0f}' for rate in rates)} | {middle:.3f} | {low:.3f} to {high:.3f} |"


def compare(name: str, first: Callable[[], float], second: Callable[[], float], count: int, rounds: int) -> None:
    """Print the row that compares two functions that process `count` images and return their CPU seconds."""
    seconds = np.array([[first(), second()] for _ in range(rounds + 1)])[1:]
    print(row(name, count / np.median(seconds, axis=0), seconds[:, 0] / seconds[:, 1]), flush=True)


def compare_workers(source: Source, name: str, transform: TrainTransform, batch_size: int, rounds: int) -> None:
    """Print the rows that compare one and two worker processes."""
    turns = [[time_workers(source, transform, batch_size, n, 8 * n) for n in (1, 2)] for _ in range(rounds)]
    clock, workers, receiver = np.array(turns).transpose(2, 0, 1)
    rates = batch_size / np.median(clock, axis=0)
    print(row(f"{name}: one worker, two workers, wall clock", rates, clock[:, 0] / clock[:, 1]))
    one_worker, two_workers = workers[:, 0], (workers[:, 0] + receiver[:, 0]) / 2
    rates = batch_size / np.median([one_worker, two_workers], axis=1)
    print(row(f"{name}: one worker, two workers, CPU-time limit", rates, one_worker / two_workers), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--images", type=int, default=100, help="number of images in the folder, each under 50 names")
    parser.add_argument("--batch", type=int, default=64, help="batch size")
    parser.add_argument("--rounds", type=int, default=15, help="number of turns of Pillow and of the pipeline")
    parser.add_argument(
        "--workers", type=int, default=5, help="number of turns of one and of two worker processes, or 0 to skip them"
    )


def run(flags: argparse.Namespace) -> None:
    """Print a row for each comparison."""
    cores = sorted(os.sched_getaffinity(0))[-2:]
    with tempfile.TemporaryDirectory() as directory:
        paths, kilobytes = make_folder(directory, flags.images)
        # Grain shuffles a thousand records at the cost per record of many, and a few at more.
        make_records(directory, paths[:1000])
        source = open_source("folder", "train", directory)
        print(
            f"{SIZE[1]}x{SIZE[0]} JPEGs of {kilobytes:.0f} kB, batches of {flags.batch}, load {os.getloadavg()[0]:.1f}"
        )
        print("| comparison | images/s | ratio | quartiles |\n|---|---|---|---|")
        for name, transform in TRANSFORMS.items():

            def pipeline(each: Source, transform: TrainTransform = transform) -> Callable[[], float]:
                return pipeline_turn(each, transform, flags.batch, flags.batch)

            os.sched_setaffinity(0, cores[-1:])
            pillow = pillow_turn(paths, transform, flags.batch)
            compare(f"{name}: Pillow, pipeline", pillow, pipeline(source), flags.batch, flags.rounds)
            verified, unverified = (
                pipeline(open_source("tfrecord", "train", directory, each)) for each in (True, False)
            )
            compare(f"{name}: TFRecord without checksums, with", unverified, verified, flags.batch, flags.rounds)
            os.sched_setaffinity(0, cores)
            if flags.workers and len(cores) == 2:
                compare_workers(source, name, transform, flags.batch, flags.workers)


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())

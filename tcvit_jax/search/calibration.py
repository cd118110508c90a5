"""Calibration images: evenly spaced images of the training split, none of which is an image of the evaluation split."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace

import jax
import numpy as np

from tcvit_jax.assembly import EvalData, Pretrained
from tcvit_jax.benchmark.calibrate import Subset
from tcvit_jax.data import Source
from tcvit_jax.data.sources.folder import FolderSource
from tcvit_jax.errors import InputError, invalid, out_of_range
from tcvit_jax.tasks.base import Task
from tcvit_jax.tasks.evaluate import check_single_process

_HINT = "candidates must not be chosen on the images that are reported"


@dataclass(frozen=True)
class Calibration:
    """Training images that a search measures.

    Attributes:
        data: The images of the last rung, with their preprocessing.
        reported: The evaluation split.
    """

    data: EvalData
    reported: Source

    def rung(self, images: int) -> EvalData:
        """Return evenly spaced images, with one batch size for all rungs, so that a program serves all of them.

        Args:
            images: The number of images.
        """
        source = self.data.source
        return replace(self.data, source=Subset(source, images, source.classes)).with_cache()


def open_calibration(pretrained: Pretrained, task: Task[object], images: int, batch_size: int) -> Calibration:
    """Open the calibration images and compare them with those of the evaluation split.

    Args:
        pretrained: The model, with the data of its configuration.
        task: The task that is measured on the images.
        images: The number of images.
        batch_size: The largest batch size, the number of images of the first rung.

    Raises:
        InputError: The training split is the evaluation split, has some of its images, or has fewer images; the data
            are not found, or differ from those that the model records; or there are several processes.
    """
    check_single_process("search")
    data = pretrained.config.data
    if data.train_split == data.eval_split:
        raise out_of_range("data.train_split", data.train_split, "different from data.eval_split", _HINT)
    full = pretrained.eval_data(split=data.train_split, needs_classifier=task.NEEDS_CLASSIFIER)
    reported = pretrained.eval_data(needs_classifier=False).source
    if not 1 <= images <= len(full.source):
        hint = f"split {data.train_split!r} has {len(full.source):,} images"
        raise out_of_range("--images", images, f"between 1 and {len(full.source)}", hint)
    if full.source.fingerprint == reported.fingerprint and not isinstance(reported, FolderSource):
        raise _shared(data.train_split, data.eval_split, "the same images")
    source = Subset(full.source, images, full.source.classes)
    if shared := _shared_files(full.source, source, reported):
        raise _shared(data.train_split, data.eval_split, f"the same file {shared}")
    # Slices such as `train[:90%]` and `train[80%:]` may overlap, and a split includes its slices.
    if _split_names(data.train_split) & _split_names(data.eval_split) and _has_shared_pixels(source, reported):
        raise _shared(data.train_split, data.eval_split, "some of the same images")
    devices = jax.device_count()
    batch_size = min(full.batch_size, -(-batch_size // devices) * devices)
    return Calibration(replace(full, source=source, batch_size=batch_size), reported)


def _shared(train_split: str, eval_split: str, what: str) -> InputError:
    return invalid(f"data.train_split={train_split!r}", f"has {what} as data.eval_split={eval_split!r}", _HINT)


def _shared_files(full: Source, subset: Subset, reported: Source) -> str:
    """Return the path of an image of `subset` that is the same file as one of `reported`, by a link; empty if none."""
    if not (isinstance(full, FolderSource) and isinstance(reported, FolderSource)):
        return ""
    files = {_identity(reported.path(index)) for index in range(len(reported))}
    paths = (full.path(subset.row(index)) for index in range(len(subset)))
    return next((path for path in paths if _identity(path) in files), "")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _split_names(split: str) -> set[str]:
    """Return the names in a split such as `train[:10%]+test`."""
    return set(re.findall(r"[^\W\d][\w-]*", re.sub(r"\[[^\]]*\]", "", split)))


def _has_shared_pixels(source: Source, reported: Source) -> bool:
    digests = {_digest(source, index) for index in range(len(source))}
    return any(_digest(reported, index) in digests for index in range(len(reported)))


def _digest(source: Source, index: int) -> bytes:
    pixels = np.asarray(source[index]["image"])
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()

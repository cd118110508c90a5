"""The data that a checkpoint records, wherever the checkpoint is used with other data."""

import json
import re
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax import eval as evaluation
from tcvit_jax import train
from tcvit_jax.assembly import DataRecord, SplitRecord
from tcvit_jax.benchmark import __main__ as benchmark
from tcvit_jax.config import Data
from tcvit_jax.convert import __main__ as convert

ACCEPT = "--accept-data-changes"


@dataclass(frozen=True)
class Images:
    """A source without images."""

    classes: tuple[str, ...] = ("ant", "bee")
    count: int = 4
    fingerprint: str = "a1"

    def __len__(self):
        return self.count


DATA = Data(name="folder", dir="data")
RECORD = DataRecord("runs/x", ("ant", "bee"), (SplitRecord.from_source(DATA, "train", Images()),))


def test_metadata_hold_the_record():
    assert DataRecord.from_meta("runs/x", json.loads(json.dumps(RECORD.to_meta()))) == RECORD
    assert DataRecord.from_meta("runs/x", {"classes": None}) == DataRecord("runs/x")


@pytest.mark.parametrize(
    ("images", "difference"),
    [
        (Images(("bee", "wasp")), "class 0 is 'bee', but 'ant'"),
        (Images(("ant", "bee", "cat")), "it has 3 classes, but 2"),
        (Images(count=5), "split 'train' has 5 images, but 4"),
        (Images(fingerprint="b2"), "split 'train' has other images, or in another order, than"),
    ],
)
def test_difference_is_one_line(images, difference):
    hint = f"in the record of 'runs/x'; use the same data, or accept the change with {ACCEPT}"
    with pytest.raises(tc.InputError, match=re.escape(f"data.name='folder': {difference} {hint}")):
        RECORD.check(DATA, "train", images)


def test_images_of_other_data_are_not_compared_but_their_classes_are():
    more = Images(count=5)
    for data, split in (
        (DATA, "val"),
        (replace(DATA, dir="other"), "train"),
        (replace(DATA, name="tfrecord"), "train"),
    ):
        RECORD.check(data, split, more)
        with pytest.raises(tc.InputError, match="class 0 is 'wasp', but 'ant'"):
            RECORD.check(data, split, replace(more, classes=("wasp", "bee")))
    # A directory that was moved holds the same images.
    with pytest.raises(tc.InputError, match="5 images, but 4"):
        RECORD.check(replace(DATA, dir="other"), "train", more, is_moved=True)


TINY = [
    "--config=configs/digits_dense.py", "--config.model.depth=1", "--config.model.embed_dim=16",
    "--config.model.num_heads=2", "--config.model.num_classes=3", "--config.batch_size=8",
    "--config.eval_batch_size=8", "--config.epochs=2", "--config.optimizer.warmup_epochs=0", "--config.data.name=folder",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on three classes, in a directory with its data."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            (root / "data" / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = rng.integers(0, 256, (12, 12), np.uint8)
                Image.fromarray(pixels).save(root / "data" / split / name / f"{index}.png")
    assert train.main([*TINY, f"--config.data.dir={root / 'data'}", f"--config.workdir={root / 'run'}"]) == 0
    assert convert.main([str(root / "run"), "--out", str(root / "run.safetensors")]) == 0
    return root


@pytest.fixture
def root(finished, tmp_path):
    """The directory of the run, whose data are restored after the test."""
    shutil.copytree(finished / "data", tmp_path / "data")
    yield finished
    for name in ("data", "out"):
        shutil.rmtree(finished / name, ignore_errors=True)
    shutil.copytree(tmp_path / "data", finished / "data")


def rename_class(root):
    for split in ("train", "val"):
        (root / "data" / split / "ant").rename(root / "data" / split / "wasp")


def add_images(root):
    for split in ("train", "val"):
        shutil.copy(root / "data" / split / "bee" / "0.png", root / "data" / split / "bee" / "9.png")


def rename_images(root):
    for split in ("train", "val"):
        (root / "data" / split / "bee" / "0.png").rename(root / "data" / split / "bee" / "9.png")


CHANGES = {
    rename_class: "class 0 is 'bee', but 'ant' in the record of ",
    add_images: "split '(train|val)' has 25 images, but 24 in the record of ",
    rename_images: "split '(train|val)' has other images, or in another order, than in the record of ",
}


def commands(root):
    """Every command that uses a checkpoint with data, for the same data in the same directory."""
    data, run, out = f"--config.data.dir={root / 'data'}", str(root / "run"), str(root / "out")
    return {
        "resumed": (train.main, [*TINY, data, f"--config.workdir={run}"]),
        "finetuned": (train.main, [*TINY, data, f"--config.workdir={out}", f"--config.weights={run}"]),
        "taught": (train.main, [*TINY, data, f"--config.workdir={out}", f"--config.distill.teacher={run}"]),
        "evaluated": (evaluation.main, ["--checkpoint", run, data]),
        "evaluated as weights": (evaluation.main, [*TINY[:5], *TINY[6:7], *TINY[9:], data, "--weights", run]),
        "evaluated as a file": (
            evaluation.main, [*TINY[:5], *TINY[6:7], *TINY[9:], data, "--weights", str(root / "run.safetensors")]
        ),
        "compared": (
            benchmark.main,
            [
                "--checkpoint", run, data, "--reducers", "uniform", "--macs-fraction", "0.9", "--out", out,
                "--batch", "8", "--rounds", "1",
            ],
        ),
    }  # fmt: skip


USES = ("resumed", "finetuned", "taught", "evaluated", "evaluated as weights", "evaluated as a file", "compared")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_changed_data_are_refused_in_one_line(root, change, use, capsys):
    change(root)
    main, arguments = commands(root)[use]
    before = list_files(root)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(f"^error: data.name='folder': {CHANGES[change]}", error), error
    assert error.count("\n") == 1 and f"accept the change with {ACCEPT}" in error
    assert list_files(root) == before


def list_files(root):
    return sorted(path for path in root.rglob("*") if ".jax_cache" not in path.parts)


@pytest.mark.parametrize("use", ["resumed", "evaluated", pytest.param("compared", marks=pytest.mark.slow)])
def test_changed_data_are_accepted_with_the_flag(root, use, capsys):
    shutil.copytree(root / "run", root / "out" / "copy")
    rename_class(root)
    main, arguments = commands(root)[use]
    assert (
        main([argument.replace(str(root / "run"), str(root / "out" / "copy")) for argument in [*arguments, ACCEPT]])
        == 0
    )


def test_exported_file_keeps_the_record_of_its_checkpoint(finished, tmp_path):
    exported = str(finished / "run.safetensors")
    run = tc.load(finished / "run")[2]
    sizes = {"img_size": 12, "patch_size": 2, "in_chans": 1, "depth": 1, "embed_dim": 16, "num_heads": 2}
    model = {"overrides": {**sizes, "num_classes": 3}, "compare": False}
    tc.convert.to_checkpoint(exported, tmp_path / "ckpt", "deit_tiny_patch16_224", **model)
    tc.convert.to_checkpoint(exported, tmp_path / "new", "deit_tiny_patch16_224", new_head=True, **model)
    converted, new = (tc.load(tmp_path / name)[2] for name in ("ckpt", "new"))
    for key in ("classes", "data", "preprocessing"):
        assert converted[key] == run[key]
    assert new["preprocessing"] == run["preprocessing"]
    assert new["classes"] is None and "data" not in new


@pytest.mark.slow
def test_new_head_takes_any_classes(root):
    rename_class(root)
    main, arguments = commands(root)["finetuned"]
    assert main([*arguments, "--config.new_head=True", "--config.epochs=1"]) == 0


def test_moved_data_are_the_same_data(root):
    shutil.copytree(root / "run", root / "out" / "copy")
    shutil.copytree(root / "data", root / "out" / "data")
    arguments = [f"--config.workdir={root / 'out' / 'copy'}", f"--config.data.dir={root / 'out' / 'data'}"]
    assert train.main([*TINY, *arguments]) == 0
    add_images(root / "out")
    assert train.main([*TINY, *arguments]) == 2

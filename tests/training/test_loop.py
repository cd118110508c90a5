"""Whole runs on the digits, in this process on eight devices; how they end early: `test_kills.py`."""

import json
import re

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import config
from tcvit_jax.checkpoint import load
from tcvit_jax.training.evaluate import evaluate_checkpoint
from tcvit_jax.training.job import build
from tcvit_jax.training.loop import train
from tests.conftest import ROOT

GTP = str(ROOT / "configs" / "digits_gtp.py")
TINY = (
    "--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2", "--config.schedule=8",
    "--config.batch_size=64", "--config.eval_batch_size=64", "--config.epochs=1", "--config.eval_every=0.5",
    "--config.optimizer.warmup_epochs=0.2", "--config.log_every=5", "--config.checkpoint_every=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run of 22 steps, in this process."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, train(config.load(GTP, [*TINY, f"--config.workdir={run}"]))


def test_run_directory(finished):
    run, summary = finished
    assert {"config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints"} == {
        p.name for p in run.iterdir()
    }
    assert json.loads((run / "summary.json").read_text()) == summary
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    keys = "top1 top5 examples gmacs gmacs_dense tokens images_per_second step seed"
    assert set(keys.split()) <= set(summary)
    assert summary["tokens"] == [36, 28, 20]
    assert summary["step"] == 22
    assert summary["gmacs"] < summary["gmacs_dense"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "val_top1" in line] == [11, 22]
    assert lines[-1]["val_top1"] == summary["top1"]


@pytest.mark.parametrize("batch", [64, 24])
def test_evaluation_of_the_checkpoint_counts_the_same(finished, batch):
    run, summary = finished
    result = evaluate_checkpoint(run, [f"--config.eval_batch_size={batch}"])
    assert (result.top1, result.top5, result.examples) == (summary["top1"], summary["top5"], summary["examples"])


def test_an_override_that_the_checkpoint_would_ignore_is_refused(finished):
    with pytest.raises(tc.InputError, match=r"cannot use '--config.epochs=3' with a checkpoint"):
        evaluate_checkpoint(finished[0], ["--config.epochs=3"])


def test_data_of_other_classes_are_refused(finished, tmp_path):
    from PIL import Image

    for label in range(10):
        (tmp_path / "val" / f"class{label}").mkdir(parents=True)
        Image.new("L", (12, 12)).save(tmp_path / "val" / f"class{label}" / "a.png")
    with pytest.raises(tc.InputError, match="dataset 'folder' has other classes than the checkpoint"):
        evaluate_checkpoint(finished[0], ["--config.data.name=folder", f"--config.data.dir={tmp_path}"])


def test_the_same_command_again_reports_and_takes_no_step(finished, capsys):
    run, summary = finished
    again = train(config.load(GTP, [*TINY, f"--config.workdir={run}"]))
    assert again["top1"] == summary["top1"]
    assert again["train_images_per_second"] == summary["train_images_per_second"]
    assert "continued after step 22" in capsys.readouterr().out


def test_another_configuration_in_the_same_directory_is_refused(finished):
    run, _ = finished
    with pytest.raises(tc.InputError, match="holds a run with seed=0, not 1: choose another directory"):
        train(config.load(GTP, [*TINY, f"--config.workdir={run}", "--config.seed=1"]))


def test_nan_loss_ends_with_the_step(tmp_path):
    arguments = [*TINY, f"--config.workdir={tmp_path / 'run'}", "--config.optimizer.lr=1e30"]
    with pytest.raises(tc.InputError) as caught:
        train(config.load(GTP, arguments))
    file = tmp_path / "run" / "nonfinite.json"
    pattern = (
        r"the (?:loss|gradient's norm) is (?:nan|inf) at step (\d+), on training images ([\d, ]+), \.\.\. \(all of them and "
        rf"their losses: {file}\): try a smaller --config.optimizer.lr"
    )
    step, named = re.fullmatch(pattern, str(caught.value)).groups()
    # The very images: those of that step's batch, and among them those whose own loss is not finite.
    job = build(config.load(GTP, TINY))
    batch = next(job.train_data.batches(int(step) - 1))
    found = json.loads(file.read_text())
    assert (found["step"], found["indices"]) == (int(step), batch["index"].tolist())
    broken = [i for i, loss in zip(found["indices"], found["losses"], strict=True) if loss is None]
    assert [int(n) for n in named.split(",")] == (broken or found["indices"])[:8]
    # Whatever was kept before that is finite.
    steps = list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    if steps:
        variables = load(tmp_path / "run", "variables")[1]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.batch_size=12", "batch_size=12 cannot be shared by 8 devices: use 16"),
        (
            "--config.model.num_classes=9",
            r"has 10 classes and the model num_classes=9: use --config.model.num_classes=10",
        ),
        ("--config.log_every=0", "log_every=0 is not positive"),
        ("--config.weights=gone.safetensors", "no weight file 'gone.safetensors'"),
        ("--config.seed=-1", r"seed=-1 is not in \[0, 2\*\*32\)"),
        ("--config.reducer.neighbors=99", "neighbors=99 is out of range: 36 patch tokens"),
        ("--config.optimizer.clip_norm=-1", "optimizer.clip_norm=-1.0 is negative"),
        ("--config.model.drop_path_rate=1", r"drop_path_rate=1.0 is not in \[0, 1\)"),
        ("--config.epochs=0.001", "epochs=0.001 is less than half a step of 64 images"),
        ("--config.mesh.model=3", "mesh.model=3 does not divide 8 devices: use 2"),
        ("--config.mesh.data=4", "mesh.data=4 times mesh.model=1 is not 8 devices: use mesh.data=8"),
        ("--config.accumulate=3", "batch_size=64 cannot be shared by 8 devices, 3 rows at a time: use 72"),
        ("--config.accumulate=0", "accumulate=0 is not positive"),
        ("--config.mixing.prob=1.5", r"mixing.prob=1.5 is not in \[0, 1\]"),
        ("--config.mixing.mixup=-0.1", "mixing.mixup=-0.1 is negative: 0 is off"),
        ("--config.random_erasing=2", r"random_erasing=2.0 is not in \[0, 1\]"),
        ("--config.distill.teacher=runs/gone", r"distill.teacher='runs/gone': no checkpoint in 'runs/gone'"),
        (
            "--config.distill.teacher=dense",
            "distill.teacher='dense' needs the weights that it is of: use --config.weights",
        ),
        (
            "--config.token_labels=1",
            "token_labels=1.0 needs a head on every patch token, which deit_tiny_patch16_224 lacks",
        ),
        ("--config.data.label_maps=maps", "data.label_maps without token_labels are not read"),
        ("--config.warmdown.epochs=1", "warmdown.epochs=1.0 ends at step 22, and the run has 22: use less"),
        ("--config.data.auto_augment=rand-m9-inc2", "rand-m9-inc2"),
        ("--config.data.repeats=0", "data.repeats=0 is not positive: 1 shows every image once an epoch"),
    ],
)
def test_mistakes_end_before_anything_is_written(tmp_path, argument, message):
    with pytest.raises(tc.InputError, match=message):
        train(config.load(GTP, [*TINY, f"--config.workdir={tmp_path / 'run'}", argument]))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_ends_with_its_path(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for label in range(10):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (14, 12)).save(folder / f"{index}.png")
    broken = tmp_path / "images" / "train" / "class3" / "5.png"
    broken.write_bytes(broken.read_bytes()[:40])
    data = ("--config.data.name=folder", f"--config.data.dir={tmp_path / 'images'}", "--config.epochs=3")
    with pytest.raises(tc.InputError, match=f"cannot read image {broken}"):
        train(config.load(GTP, [*TINY, *data, f"--config.workdir={tmp_path / 'run'}"]))

"""Whole runs on the digits, in this process on eight devices; how they end early: `test_kills.py`."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax import config, convert
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.assembly.evaluate import evaluate
from tcvit_jax.checkpoint import load
from tcvit_jax.training.job import build
from tcvit_jax.training.loop import train
from tcvit_jax.training.preemption import Preempted, PreemptionWatcher
from tests.conftest import ROOT
from tests.training.settings import GTP, TINY


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
    result = evaluate(from_checkpoint(run).updated({"eval_batch_size": batch}))
    assert (result.top1, result.top5, result.examples) == (summary["top1"], summary["top5"], summary["examples"])


def test_data_of_other_classes_are_refused(finished, tmp_path):
    from PIL import Image

    for label in range(10):
        (tmp_path / "val" / f"class{label}").mkdir(parents=True)
        Image.new("L", (12, 12)).save(tmp_path / "val" / f"class{label}" / "a.png")
    with pytest.raises(tc.InputError, match=rf"dataset 'folder' has other classes than '{finished[0]}' was trained on"):
        evaluate(from_checkpoint(finished[0]).updated({"data.name": "folder", "data.dir": str(tmp_path)}))


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
        ("--config.log_every=0", "log_every=0: must be > 0"),
        ("--config.weights=gone.safetensors", "no weight file 'gone.safetensors'"),
        ("--config.seed=-1", r"seed=-1: must be in \[0, 2\*\*32\)"),
        ("--config.reducer.neighbors=99", "neighbors=99 is out of range: 36 patch tokens"),
        ("--config.optimizer.clip_norm=-1", "optimizer.clip_norm=-1.0: must be >= 0"),
        ("--config.model.drop_path_rate=1", r"drop_path_rate=1.0 is not in \[0, 1\)"),
        ("--config.epochs=0.001", "epochs=0.001 is less than half a step of 64 images"),
        ("--config.mesh.model=3", "mesh.model=3 does not divide 8 devices: use 2"),
        ("--config.mesh.data=4", "mesh.data=4 times mesh.model=1 is not 8 devices: use mesh.data=8"),
        ("--config.accumulate=3", "batch_size=64 cannot be shared by 8 devices, 3 rows at a time: use 72"),
        ("--config.accumulate=0", "accumulate=0: must be > 0"),
        ("--config.mixing.prob=1.5", r"mixing.prob=1.5: must be in \[0, 1\]"),
        ("--config.mixing.mixup=-0.1", "mixing.mixup=-0.1: must be >= 0"),
        ("--config.random_erasing=2", r"random_erasing=2.0: must be in \[0, 1\]"),
        ("--config.distill.teacher=runs/gone", r"distill.teacher='runs/gone': no checkpoint in 'runs/gone'"),
        (
            "--config.distill.teacher=dense",
            "distill.teacher='dense' requires weights: set --config.weights=PATH",
        ),
        (
            "--config.token_labels=1",
            "token_labels=1.0 requires a head on every patch token, which deit_tiny_patch16_224 lacks",
        ),
        ("--config.data.label_maps=maps", "data.label_maps='maps' has no effect: it requires token_labels > 0"),
        (
            "--config.reduction_warmup.epochs=1",
            "reduction_warmup.epochs=1.0 ends at step 22, and the run has 22: use less",
        ),
        ("--config.data.auto_augment=rand-m9-inc2", "rand-m9-inc2"),
        ("--config.data.repeats=0", "data.repeats=0: must be >= 1"),
        ("--config.data.repeats=40", "batch_size=64: must be large enough"),
        ("--config.distill.tokens=0.5", "distill.tokens=0.5 has no effect: it requires distill.teacher"),
        ("--config.distill.kind=sof", "unknown distill.kind 'sof': did you mean 'soft'?"),
        (
            "--config.mixing.switch_prob=0.3",
            "mixing.switch_prob=0.3 has no effect: it requires both mixing.mixup and mixing.cutmix",
        ),
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


@pytest.mark.slow
def test_everything_at_once_and_an_interruption_between_two_stages(finished, tmp_path, monkeypatch):
    """Shared parameters, micro-batches, mixing, a teacher, stages: trained, interrupted, continued, evaluated, loaded."""
    run, _ = finished
    weights = tmp_path / "weights.safetensors"
    model, variables, _ = load(run)
    save_file(convert.to_torch(variables, model), weights)
    arguments = [
        *TINY, "--config.mesh.model=2", "--config.accumulate=2", "--config.mixing.mixup=0.8", "--config.mixing.cutmix=1",
        "--config.random_erasing=0.25", "--config.reduction_warmup.epochs=0.6", "--config.reduction_warmup.stages=1",
        f"--config.weights={weights}", "--config.distill.teacher=dense", "--config.distill.tokens=0.5",
        "--config.optimizer.layer_decay=0.8", "--config.optimizer.clip_norm=1", "--config.data.repeats=2",
        "--config.data.auto_augment=rand-m9-mstd0.5-inc1",
    ]  # fmt: skip
    job = build(config.load(GTP, arguments))
    assert [(stage.start, stage.removed) for stage in job.stages] == [(0, (0, 0)), (13, (8, 8))]
    whole = train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'whole'}"]))
    # Told to end after step 9, of the second stage.
    asked = iter([False] * 8 + [True] * 99)
    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "reached", lambda _: next(asked))
        with pytest.raises(Preempted, match="interrupted, and saved after step 9: the same command continues"):
            train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'told'}"]))
    told = train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'told'}"]))
    assert (told["top1"], told["loss"]) == (whole["top1"], whole["loss"])
    for name in ("variables", "ema"):
        found, expected = load(tmp_path / "told", name)[1], load(tmp_path / "whole", name)[1]
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert evaluate(from_checkpoint(tmp_path / "told")).top1 == told["top1"]


@pytest.mark.slow
def test_lv_vit_trains_on_label_maps(tmp_path):
    """From images and maps in folders to a finite loss that falls, through the pipeline and the step."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(2):
            for kind in ("images", "maps"):
                (tmp_path / kind / split / f"c{label}").mkdir(parents=True)
            for index in range(8):
                pixels = (rng.integers(0, 60, (40, 48, 3)) + 180 * label).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / f"c{label}" / f"{index}.png")
                scores = np.where(np.arange(5)[:, None, None] == 0, 6.0, 0.1 * rng.random((5, 3, 3)))
                classes = np.broadcast_to(((label + np.arange(5)) % 7)[:, None, None], (5, 3, 3))
                np.save(tmp_path / "maps" / split / f"c{label}" / f"{index}.npy", np.stack([scores, classes]))
    for label in range(2, 7):
        for split in ("train", "val"):
            (tmp_path / "images" / split / f"c{label}").mkdir()
            Image.new("RGB", (40, 40)).save(tmp_path / "images" / split / f"c{label}" / "0.png")
            (tmp_path / "maps" / "train" / f"c{label}").mkdir(exist_ok=True)
            flat = np.stack([np.ones((5, 3, 3)), np.broadcast_to(np.arange(5)[:, None, None], (5, 3, 3))])
            np.save(tmp_path / "maps" / "train" / f"c{label}" / "0.npy", flat)
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 7,
        "stem_channels": 4,
    }
    summary = train(config.load(ROOT / "configs" / "lvvit_s_gtp.py", [
        *(f"--config.model.{key}={value}" for key, value in sizes.items()), "--config.model.dtype=float32",
        "--config.data.name=folder", f"--config.data.dir={tmp_path / 'images'}", f"--config.data.label_maps={tmp_path / 'maps' / 'train'}",
        "--config.data.workers=0", "--config.schedule=4", "--config.batch_size=16", "--config.eval_batch_size=16",
        "--config.epochs=20", "--config.log_every=5", "--config.eval_every=20", f"--config.workdir={tmp_path / 'run'}",
        "--config.optimizer.warmup_epochs=1", "--config.optimizer.lr=0.2",
    ]))  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line["loss"] for line in lines if "loss" in line]
    assert np.isfinite(logged).all()
    assert logged[-1] < logged[0]
    assert summary["examples"] == 21


@pytest.mark.slow
def test_an_interrupted_evaluation_is_made_up_for_once(finished, tmp_path, monkeypatch):
    """Interrupted in the evaluation after step 11, continued, killed before the next checkpoint, and continued."""
    arguments = [*TINY, "--config.checkpoint_every=100", f"--config.workdir={tmp_path / 'run'}"]
    asked = iter([False] * 13 + [True] * 99)
    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "reached", lambda _: next(asked))
        with pytest.raises(Preempted, match="saved after step 11"):
            train(config.load(GTP, arguments))
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert [line["step"] for line in map(json.loads, metrics.read_text().splitlines())] == [5, 10]

    def killed(_):
        if '"step": 15' in metrics.read_text():
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "reached", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config.load(GTP, arguments))
    assert [line["step"] for line in map(json.loads, metrics.read_text().splitlines())] == [5, 10, 11, 15]
    train(config.load(GTP, arguments))
    whole = (finished[0] / "metrics.jsonl").read_text().splitlines()
    assert [timeless(line) for line in metrics.read_text().splitlines()] == [timeless(line) for line in whole]


def timeless(line):
    return {key: value for key, value in json.loads(line).items() if "per_second" not in key}


@pytest.mark.slow
def test_a_run_goes_on_with_other_machines_and_a_first_failure_leaves_nothing_behind(tmp_path):
    arguments = [*TINY, f"--config.workdir={tmp_path / 'run'}"]
    with pytest.raises(tc.InputError, match="the gradient|the loss"):
        train(
            config.load(
                GTP,
                [*arguments, "--config.optimizer.lr=1e30", "--config.log_every=100", "--config.checkpoint_every=100"],
            )
        )
    train(config.load(GTP, [*arguments, "--config.epochs=0.5"]))
    moved = ("--config.mesh.model=2", "--config.data.workers=0", "--config.accumulate=2", "--config.checkpoint_every=7")
    train(config.load(GTP, [*arguments, "--config.epochs=0.5", *moved]))
    with pytest.raises(tc.InputError, match="holds a run with epochs=0.5, not 1.0"):
        train(config.load(GTP, arguments))

"""Complete runs on the digits, in this process on eight devices. Killed runs are in `test_kills.py`."""

import json
import random
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax import config, convert
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.assembly.evaluate import evaluate
from tcvit_jax.checkpoint import load
from tcvit_jax.data.workers import available_cores
from tcvit_jax.report import progress
from tcvit_jax.training.job import build
from tcvit_jax.training.loop import train
from tcvit_jax.training.preemption import Preempted, PreemptionWatcher
from tests.conftest import ROOT
from tests.damage import DAMAGES, flip_bit
from tests.training.settings import GTP, TINY


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A short run of 22 steps: its directory and its summary."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, train(config.load(GTP, [*TINY, f"--config.workdir={run}"]))


def test_run_directory_has_all_files(finished_run):
    run, summary = finished_run
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


@pytest.mark.parametrize("batch_size", [64, 24])
def test_evaluation_of_the_checkpoint_matches_the_summary(finished_run, batch_size):
    run, summary = finished_run
    result = evaluate(from_checkpoint(run).updated({"eval_batch_size": batch_size}))
    assert (result.top1, result.top5, result.examples) == (summary["top1"], summary["top5"], summary["examples"])


def test_evaluation_rejects_data_with_other_classes(finished_run, tmp_path):
    from PIL import Image

    for label in range(10):
        (tmp_path / "val" / f"class{label}").mkdir(parents=True)
        Image.new("L", (12, 12)).save(tmp_path / "val" / f"class{label}" / "a.png")
    with pytest.raises(
        tc.InputError,
        match=f"class 0 is 'class0', but '0' in the record of '{finished_run[0]}'; use the same data, or accept",
    ):
        evaluate(from_checkpoint(finished_run[0]).updated({"data.name": "folder", "data.dir": str(tmp_path)}))


def test_finished_run_reports_without_training(finished_run, capsys):
    run, summary = finished_run
    repeated = train(config.load(GTP, [*TINY, f"--config.workdir={run}"]))
    assert repeated["top1"] == summary["top1"]
    assert repeated["train_images_per_second"] == summary["train_images_per_second"]
    assert "resumed after step 22" in capsys.readouterr().out


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the finished run, to damage it, and the configuration that resumes it."""
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    return run, config.load(GTP, [*TINY, f"--config.workdir={run}"])


# Damage that leaves nothing wrong: an interrupted line is taken again, and a file that is only written is replaced.
HARMLESS = {
    ("metrics.jsonl", "deleted"), ("metrics.jsonl", "emptied"), ("metrics.jsonl", "cut in half"),
    ("metrics.jsonl", "cut by a byte"), ("config.json", "cut by a byte"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage"),
    sorted({(name, damage) for name in ("config.json", "metrics.jsonl") for damage in DAMAGES} - HARMLESS),
)
def test_damaged_file_is_a_one_line_error(copied_run, name, damage):
    run, settings = copied_run
    DAMAGES[damage](run / name)
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    with pytest.raises(tc.InputError, match=f"^{run}/{name}(:| line 1:) ") as error:
        train(settings)
    assert len(str(error.value)) < 500
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == checkpoints


@pytest.mark.parametrize("damage", ["directory", "pipe", "device", "dangling link"])
@pytest.mark.parametrize("name", ["summary.json", "curves.png", "nonfinite.json"])
def test_special_file_in_place_of_an_output_is_an_error(copied_run, name, damage):
    run, settings = copied_run
    (run / name).touch()
    DAMAGES[damage](run / name)
    with pytest.raises(tc.InputError, match=f"^{run}/{name}: (expected a file, got a|not found)"):
        train(settings)


def test_file_in_place_of_the_checkpoints_is_an_error(copied_run):
    run, settings = copied_run
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").touch()
    with pytest.raises(tc.InputError, match="run/checkpoints: expected a directory"):
        train(settings)


def test_damage_of_files_that_are_only_written_is_harmless(finished_run, copied_run):
    run, settings = copied_run
    for name, damage in {"metrics.jsonl": "cut by a byte", "summary.json": "deleted", "curves.png": "no text"}.items():
        DAMAGES[damage](run / name)
    (run / "checkpoints" / "²").mkdir()
    assert train(settings)["top1"] == finished_run[1]["top1"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert history == [json.loads(line) for line in (finished_run[0] / "metrics.jsonl").read_text().splitlines()]


def test_damaged_checkpoint_is_trained_again_from_the_one_before(finished_run, copied_run, capsys):
    run, settings = copied_run
    flip_bit(run / "checkpoints" / "22" / "ema" / "_METADATA", 0.5)
    for read in (load, from_checkpoint):
        with pytest.raises(tc.InputError, match="22: checkpoint cannot be read: ema/_METADATA: .*/20 is intact$"):
            read(run)
    with pytest.raises(tc.InputError, match="^distill.teacher: .*22: checkpoint cannot be read: ema/_METADATA"):
        build(settings.updated({"distill.teacher": str(run)}))
    summary = train(settings)
    output = capsys.readouterr().out.replace("\n", "")
    assert "checkpoints/22 is damaged" in output and "resumed after step 20" in output
    assert summary["top1"] == finished_run[1]["top1"]
    for weights in ("variables", "ema"):
        jax.tree.map(np.testing.assert_array_equal, load(run, weights)[1], load(finished_run[0], weights)[1])


def test_evaluation_batch_larger_than_the_split(finished_run):
    run, summary = finished_run
    assert evaluate(from_checkpoint(run).updated({"eval_batch_size": 8 * 10**8})).top1 == summary["top1"]


@pytest.mark.slow
def test_random_damage_gives_the_right_result_or_a_one_line_error(finished_run, tmp_path):
    """Evaluate and resume a run after every kind of damage of a random file of it."""
    original, summary = finished_run
    rng = random.Random(0)
    flips = {f"flip {number}": lambda path: flip_bit(path, rng.random(), rng.randrange(8)) for number in range(6)}

    def outcome(function, *arguments):
        try:
            result = function(*arguments)
        except tc.InputError as error:
            return len(str(error)) < 1000
        return (result["top1"] if isinstance(result, dict) else result.top1) == summary["top1"]

    for count, (damage, function) in enumerate({**DAMAGES, **flips}.items()):
        run = shutil.copytree(original, tmp_path / str(count))
        settings = config.load(GTP, [*TINY, f"--config.workdir={run}"])
        files = sorted(path for path in run.rglob("*") if path.is_file())
        path = rng.choice([file for file in files if "22" in file.parts] if rng.random() < 0.6 else files)
        function(path)
        assert outcome(lambda run=run: evaluate(from_checkpoint(run))), (damage, path)
        assert outcome(train, settings), (damage, path)
        assert outcome(lambda run=run: evaluate(from_checkpoint(run))), (damage, path)
        shutil.rmtree(run)


def test_run_directory_rejects_another_configuration(finished_run):
    run, _ = finished_run
    with pytest.raises(tc.InputError, match="holds a run with seed=0, not 1; set --config.workdir=PATH"):
        train(config.load(GTP, [*TINY, f"--config.workdir={run}", "--config.seed=1"]))


def test_nonfinite_loss_names_the_step_and_the_images(tmp_path):
    arguments = [*TINY, f"--config.workdir={tmp_path / 'run'}", "--config.optimizer.lr=1e30"]
    with pytest.raises(tc.InputError) as error:
        train(config.load(GTP, arguments))
    file = tmp_path / "run" / "nonfinite.json"
    pattern = (
        r"step (\d+): the (?:loss|gradient norm) is (?:nan|inf) on training images ([\d, ]+), \.\.\.; "
        rf"lower --config.optimizer.lr \(indices and losses of the batch: {file}\)"
    )
    step, indices = re.fullmatch(pattern, str(error.value)).groups()
    # The images are those of the batch of that step whose loss is not finite.
    job = build(config.load(GTP, TINY))
    batch = next(job.train_data.batches(int(step) - 1))
    report = json.loads(file.read_text())
    assert (report["step"], report["indices"]) == (int(step), batch["index"].tolist())
    nonfinite = [i for i, loss in zip(report["indices"], report["losses"], strict=True) if loss is None]
    assert [int(n) for n in indices.split(",")] == (nonfinite or report["indices"])[:8]
    # Checkpoints that were saved before are finite.
    steps = list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    if steps:
        variables = load(tmp_path / "run", "variables")[1]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.batch_size=12", r"batch_size=12: must be a positive multiple of 8 \(8 devices\); use 16"),
        (
            "--config.model.num_classes=9",
            "expected 9 classes, as model.num_classes, got 10; use other data, or a model of 10 classes",
        ),
        ("--config.log_every=0", "log_every=0: must be > 0"),
        ("--config.weights=gone.safetensors", "gone.safetensors: not found"),
        ("--config.seed=-1", r"seed=-1: must be in \[0, 2\*\*32\)"),
        ("--config.reducer.neighbors=99", "neighbors=99: must be between 0 and 35; there are 36 patch tokens"),
        ("--config.optimizer.clip_norm=-1", "optimizer.clip_norm=-1.0: must be >= 0"),
        ("--config.model.drop_path_rate=1", r"drop_path_rate=1.0: must be in \[0, 1\)"),
        ("--config.epochs=0.001", "epochs=0.001: must be large enough for one step of 64 images"),
        ("--config.mesh.model=3", "mesh.model=3: must be a divisor of 8, the number of devices; use 2"),
        ("--config.mesh.data=4", "mesh.data=4: must be 8, for 8 devices and mesh.model=1"),
        ("--config.accumulate=3", r"batch_size=64: must be a positive multiple of 24 \(8 devices x 3 rows\); use 72"),
        ("--config.accumulate=0", "accumulate=0: must be > 0"),
        ("--config.mixing.prob=1.5", r"mixing.prob=1.5: must be in \[0, 1\]"),
        ("--config.mixing.mixup=-0.1", "mixing.mixup=-0.1: must be >= 0"),
        ("--config.random_erasing=2", r"random_erasing=2.0: must be in \[0, 1\]"),
        ("--config.distill.teacher=runs/gone", "distill.teacher: runs/gone: checkpoint not found"),
        (
            "--config.distill.teacher=dense",
            "distill.teacher='dense' requires weights: set --config.weights=PATH",
        ),
        (
            "--config.token_labels=1",
            "token_labels=1.0 requires a model with a head on its patch tokens: use lvvit_s instead of deit_tiny_patch16_224",
        ),
        ("--config.data.label_maps=maps", "data.label_maps='maps' requires token_labels > 0"),
        (
            "--config.reduction_warmup.epochs=1",
            "reduction_warmup.epochs=1.0: must be shorter than the run; the reduction warm-up ends at step 22 and the run has 22 steps",
        ),
        ("--config.data.auto_augment=rand-m9-inc2", "rand-m9-inc2"),
        ("--config.data.repeats=0", "data.repeats=0: must be >= 1"),
        ("--config.data.repeats=40", "batch_size=64: must be large enough"),
        ("--config.distill.tokens=0.5", "distill.tokens=0.5 requires a teacher: set --config.distill.teacher=PATH"),
        ("--config.distill.kind=sof", "unknown distill.kind 'sof': did you mean 'soft'?"),
        (
            "--config.mixing.switch_prob=0.3",
            "mixing.switch_prob=0.3 requires mixing.mixup > 0 and mixing.cutmix > 0",
        ),
    ],
)
def test_invalid_configuration_fails_before_anything_is_written(tmp_path, argument, message):
    with pytest.raises(tc.InputError, match=message):
        train(config.load(GTP, [*TINY, f"--config.workdir={tmp_path / 'run'}", argument]))
    assert not (tmp_path / "run").exists()


def test_unreadable_image_is_an_error_with_its_path_and_skipped_files_are_counted(tmp_path, capfd):
    from PIL import Image

    for split in ("train", "val"):
        for label in range(10):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (14, 12)).save(folder / f"{index}.png")
    image = tmp_path / "images" / "train" / "class3" / "5.png"
    image.write_bytes(image.read_bytes()[:40])
    (image.parent / "notes.txt").write_text("")
    data = ("--config.data.name=folder", f"--config.data.dir={tmp_path / 'images'}", "--config.epochs=3")
    with pytest.raises(tc.InputError, match=f"{image}: cannot read image"):
        train(config.load(GTP, [*TINY, *data, f"--config.workdir={tmp_path / 'run'}"]))
    lines = [line.rstrip() for line in capfd.readouterr().out.splitlines() if line.startswith("data")]
    count = min(available_cores(), 16)
    assert lines == [
        f"data    folder: 80 training images, 80 validation images, 10 classes, {count} worker{'s' * (count > 1)}",
        "data    training: 1 file not read: 1 with suffix '.txt'",
    ]


@pytest.mark.slow
def test_preempted_run_with_all_features_equals_uninterrupted_run(finished_run, tmp_path, monkeypatch):
    """Sharded parameters, micro-batches, mixing, a teacher and a reduction warm-up, preempted before the second stage."""
    run, _ = finished_run
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
    expected = train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'reference'}"]))
    # Preempted after step 9, in the first stage.
    answers = iter([False] * 8 + [True] * 99)
    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "is_preempted", lambda _: next(answers))
        with pytest.raises(Preempted, match="preempted: saved after step 9; rerun the same command to resume"):
            train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'preempted'}"]))
    actual = train(config.load(GTP, [*arguments, f"--config.workdir={tmp_path / 'preempted'}"]))
    assert (actual["top1"], actual["loss"]) == (expected["top1"], expected["loss"])
    for name in ("variables", "ema"):
        variables = [load(tmp_path / run_name, name)[1] for run_name in ("preempted", "reference")]
        jax.tree.map(np.testing.assert_array_equal, *variables)
    assert evaluate(from_checkpoint(tmp_path / "preempted")).top1 == actual["top1"]


@pytest.mark.slow
def test_lvvit_loss_decreases_on_label_maps(tmp_path):
    """From folders of images and label maps, through the pipeline and the training step."""
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
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert summary["examples"] == 21


@pytest.mark.slow
def test_interrupted_evaluation_is_repeated_once(finished_run, tmp_path, monkeypatch):
    """Preempted in the evaluation after step 11, resumed, killed before the next checkpoint, and resumed again."""
    arguments = [*TINY, "--config.checkpoint_every=100", f"--config.workdir={tmp_path / 'run'}"]
    answers = iter([False] * 13 + [True] * 99)
    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "is_preempted", lambda _: next(answers))
        with pytest.raises(Preempted, match="saved after step 11"):
            train(config.load(GTP, arguments))
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert [line["step"] for line in map(json.loads, metrics.read_text().splitlines())] == [5, 10]

    def kill_at_step_15(_):
        if '"step": 15' in metrics.read_text():
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr(PreemptionWatcher, "is_preempted", kill_at_step_15)
        with pytest.raises(KeyboardInterrupt):
            train(config.load(GTP, arguments))
    assert [line["step"] for line in map(json.loads, metrics.read_text().splitlines())] == [5, 10, 11, 15]
    train(config.load(GTP, arguments))
    expected = (finished_run[0] / "metrics.jsonl").read_text().splitlines()
    actual = metrics.read_text().splitlines()
    assert list(map(without_timings, actual)) == list(map(without_timings, expected))


def without_timings(line):
    return {key: value for key, value in json.loads(line).items() if "per_second" not in key}


@pytest.mark.slow
def test_run_resumes_on_another_mesh_and_failed_run_can_be_restarted(tmp_path):
    arguments = [*TINY, f"--config.workdir={tmp_path / 'run'}"]
    with pytest.raises(tc.InputError, match="the gradient|the loss"):
        train(
            config.load(
                GTP,
                [*arguments, "--config.optimizer.lr=1e30", "--config.log_every=100", "--config.checkpoint_every=100"],
            )
        )
    train(config.load(GTP, [*arguments, "--config.epochs=0.5"]))
    machine = (
        "--config.mesh.model=2",
        "--config.data.workers=0",
        "--config.accumulate=2",
        "--config.checkpoint_every=7",
    )
    train(config.load(GTP, [*arguments, "--config.epochs=0.5", *machine]))
    with pytest.raises(tc.InputError, match="holds a run with epochs=0.5, not 1.0"):
        train(config.load(GTP, arguments))


@pytest.mark.slow
def test_slow_compilation_and_evaluation_are_announced(finished_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SLOW", 1e-4)
    monkeypatch.setattr(progress, "LINE_INTERVAL", 1e-9)
    train(
        config.load(
            GTP,
            [
                *TINY,
                f"--config.workdir={tmp_path / 'run'}",
                "--config.epochs=0.1",
                "--config.optimizer.warmup_epochs=0.05",
            ],
        )
    )
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    for what in ("training step", "evaluation"):
        assert lines.count(f"compiling the {what} of deit_tiny_patch16_224 ...") == 1
    rates = [line for line in lines if re.fullmatch(r"evaluation: \d+/359 images, [\d,]+ images/s", line)]
    # Of six batches, the first compiles.
    assert [line.split()[1] for line in rates] == [f"{n}/359" for n in (128, 192, 256, 320, 359)]
    assert captured.err == ""
    evaluate(from_checkpoint(finished_run[0]))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling the evaluation of deit_tiny_patch16_224 ..."
    assert [line.split()[1] for line in lines[1:]] == [f"{n}/359" for n in (128, 192, 256, 320, 359)]

"""Flags of tasks, and evaluations from the command line."""

import argparse
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.eval import main
from tcvit_jax.tasks.arguments import TASKS, add_task_arguments, parse_img_size, parse_task

HERE = "tests.tasks.decoders"


def parse(*arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_task_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_its_flags(name):
    required = ["--decoder", "m:N", "--decoder-weights", "w"] if name == "dense" else []
    assert name == parse_task(parse("--task", name, *required)).NAME


def test_flags_are_fields():
    task = parse_task(parse("--task", "knn", "--k", "3", "--leave-one-out", "--feature", "avg"))
    assert (task.k, task.temperature, task.leave_one_out, task.feature) == (3, 0.07, True, "avg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "clasify"], "unknown task 'clasify': did you mean 'classify'?"),
        (["--k", "3"], "--k cannot be combined with --task classify: it is a flag of --task knn"),
        (["--task", "knn", "--probe", "ridge"], "--probe cannot be combined with --task knn: it is a flag of --task linear"),
        (["--task", "dense", "--feature", "avg"], "--feature cannot be combined with --task dense: it is a flag of --task knn or linear or retrieval"),
        (["--task", "linear", "--leave-one-out"], "--leave-one-out cannot be combined with --task linear: "),
        (["--task", "retrieval", "--label-maps", "x"], "--label-maps cannot be combined with --task retrieval: "),
    ],
)  # fmt: skip
def test_flags_that_a_task_does_not_read_are_errors(arguments, message):
    with pytest.raises(tc.InputError, match=re.escape(message)):
        parse_task(parse(*arguments))


def test_image_sizes():
    assert parse_img_size(parse()) is None
    assert parse_img_size(parse("--img-size", "8")) == (8, 8)
    assert parse_img_size(parse("--img-size", "8x6")) == (8, 6)
    for value in ("large", "0"):
        with pytest.raises(tc.InputError, match=f"--img-size='{value}': must be N or HEIGHTxWIDTH, such as 224"):
            parse_img_size(parse("--img-size", value))
    with pytest.raises(tc.InputError, match="--img-size cannot be combined with --config: set --config.model.img_size"):
        parse_img_size(parse("--img-size", "8", "--config", "x.py"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, digits_checkpoint):
    """Return the arguments of the tests by name: pairs of images, a decoder, and a checkpoint without classes."""
    from dataclasses import asdict, replace

    import jax

    from tcvit_jax import checkpoint, models
    from tcvit_jax.models.image_preprocessing import Preprocessing
    from tcvit_jax.tasks.features import feature_variables

    root, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    for folder in "ab":
        (root / "pairs" / folder).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (16, 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "pairs" / folder / f"{index}.png")
    save_file(
        {"layer.kernel": np.ones((16, 1), np.float32), "layer.bias": np.zeros(1, np.float32)}, root / "w.safetensors"
    )
    model, variables, _ = tc.load(digits_checkpoint)
    featurizer = replace(model, num_classes=0)
    meta = {
        "model": models.to_config(featurizer), "preprocessing": asdict(Preprocessing((0.3,), (0.3,), 1.0)), "classes": None,
    }  # fmt: skip
    checkpoint.save(root / "features", jax.tree.map(np.asarray, feature_variables(featurizer, variables)), meta)
    return {
        "checkpoint": digits_checkpoint, "features": str(root / "features"), "pairs": str(root / "pairs"),
        "weights": str(root / "w.safetensors"),
    }  # fmt: skip


DECODER = ["--decoder", f"{HERE}:Pointwise", "--decoder-weights", "{weights}"]
PAIRS = ["--config.data.name=pairs", "--config.data.dir={pairs}"]
DIGITS = ["--config.data.name=digits"]
GTP = ["--config.reducer.name=gtp", "--config.schedule=5"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--checkpoint", "{features}", *DIGITS, "--task", "knn", *GTP], r"top1 0\.\d+ \(\d+/359\)  top5 .*  cosine 0\.9\d+"),
        (["--checkpoint", "{checkpoint}", "--task", "knn", "--leave-one-out"], r"top1 0\.\d+ \(\d+/359\)  top5 .*  cosine 1\.0+"),
        (["--checkpoint", "{checkpoint}", "--task", "linear"], r"top1 0\.\d+ \(\d+/359\)  top5 .*  cosine 1\.0+"),
        (["--checkpoint", "{features}", "--task", "retrieval", *PAIRS, "--max-pairs", "5"], r"recall1 \d\.\d+ \(\d+/10\)  recall5 1\.0+ .*"),
        (["--checkpoint", "{checkpoint}", "--task", "dense", *PAIRS, *DECODER, *GTP], r"iou [01]\.\d+  error 0\.\d+"),
        (["--checkpoint", "{checkpoint}", "--img-size", "6x8"], r"top1 0\.\d+ \(\d+/359\).*loss.*"),
    ],
    ids=["knn", "leave-one-out", "linear", "retrieval", "dense", "classify"],
)  # fmt: skip
def test_eval_prints_the_scores(inputs, capsys, arguments, line):
    assert main([argument.format(**inputs) for argument in arguments]) == 0, capsys.readouterr().err
    assert re.search(f"^{line}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{features}", *DIGITS], "error: data.name='digits': 10 classes, but the model has no classifier; pass --task knn"),
        (["{features}", "--task", "knn", *PAIRS], "error: unknown split of pairs 'train': must be one of test, val"),
        (["{features}", "--task", "retrieval", *DIGITS], "error: --task retrieval requires pairs of images: "),
        (["{checkpoint}", "--task", "linear", "--config.data.train_split=val"], "error: data.train_split='val': must be different from data.eval_split='val'"),
        (["{checkpoint}", "--config.data.train_split=val"], "error: --config.data.train_split cannot be combined with eval.py: it uses data.name, "),
        (["{checkpoint}", "--task", "knn", "--k", "2000"], "error: --k=2000: must be <= 1438, the number of possible neighbors"),
        (["{checkpoint}", "--task", "knn", "--k", "few"], "error: --k='few': must be an integer"),
        (["{checkpoint}", "--task", "dense"], "error: --task dense requires --decoder: "),
        (["{checkpoint}", "--task", "dense", "--decoder", f"{HERE}:three_classes", *DECODER[2:], *PAIRS], "error: --decoder-weights: params.layer.bias: expected (3,), got (1,)"),
        (["{checkpoint}", "--img-size", "7"], "error: img_size=7: must be a positive multiple of patch_size=2; use "),
        (["{checkpoint}", "--task", "retrieval", "--config.data.name=pairs", "--config.data.dir=nowhere"], "error: nowhere/a: directory not found; "),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(inputs, capsys, arguments, message):
    assert main(["--checkpoint", *(argument.format(**inputs) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1

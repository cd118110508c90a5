"""Whole conversions: what they print, what they write, and what they leave behind when they fail."""

import re
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.convert.__main__ import main
from tcvit_jax.models import zoo
from tests.conftest import ROOT
from tests.convert import cases
from tests.convert.cases import augreg, weights
from tests.models.builders import images_of


def written(tmp_path, family="deit"):
    path = tmp_path / f"{family}.safetensors"
    save_file(weights(family), path)
    return path


def convert(tmp_path, family="deit", **options):
    name, overrides, _, _ = cases.case(family)
    overrides = {**overrides, **options.pop("overrides", {})}
    return tc.convert.to_checkpoint(
        written(tmp_path, family), tmp_path / "ckpt", name, overrides=overrides, compare=False, **options
    )


# The others go there and back in memory, in `test_mapping.py`.
@pytest.mark.parametrize("family", ["deit", "deit_distilled", "gap_fc_norm", "reg4", "lvvit"])
def test_timm_to_orbax_to_timm_is_the_same_to_the_bit(tmp_path, family):
    report = convert(tmp_path, family)
    assert report.parameters == models.count_parameters(cases.model(family))
    assert len(report.conversion.mapped) == len(weights(family))
    model, _, meta = tc.load(tmp_path / "ckpt")
    assert model == replace(cases.model(family), variant=model.variant)
    assert model.variant.partition(".")[0] == cases.FAMILIES[family]
    assert zoo.Preprocessing.from_config(meta["preprocessing"]) == zoo.preprocessing(model.variant)
    assert meta["provenance"]["sha256"] == report.sha256
    line = tc.convert.to_safetensors(tmp_path / "ckpt", tmp_path / "back.safetensors")
    assert re.fullmatch(
        rf".*back.safetensors: {len(weights(family))} tensors of {model.variant}, sha256 [0-9a-f]{{64}}", line
    )
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(weights(family))
    for key, value in weights(family).items():
        np.testing.assert_array_equal(back[key], value)
    assert {path.name for path in tmp_path.iterdir()} == {"back.safetensors", "ckpt", f"{family}.safetensors"}


def test_report_and_provenance(tmp_path):
    name, overrides, _, _ = cases.case("lvvit")
    given = {f"module.{key}": value for key, value in weights("lvvit").items()}
    given["module.patch_embed.bn1.num_batches_tracked"] = np.asarray(5)
    save_file(given, tmp_path / "lv.safetensors")
    report = tc.convert.to_checkpoint(
        str(tmp_path / "lv.safetensors"), tmp_path / "ckpt", name, new_head=True, compare=False,
        overrides={**overrides, "img_size": (96, 160), "num_classes": 3},
    )  # fmt: skip
    text = str(report).splitlines()
    assert text[0] == f"source      lv.safetensors, sha256 {report.sha256}"
    assert text[1:3] == [
        "model       lvvit_s.tlt_in1k",
        f"tensors     {len(given) - 6} mapped, 1 resampled, 4 replaced, 1 ignored, 0 refused, float32",
    ]
    assert text[3:6] == [
        "resampled   module.pos_embed",
        "replaced    module.aux_head.bias, module.aux_head.weight, module.head.bias, module.head.weight",
        "ignored     module.patch_embed.bn1.num_batches_tracked",
    ]
    assert text[6] == f"parameters  {report.parameters:,}, where the name has 26,151,824"
    assert text[7] == "parity      not compared"
    assert tc.load(tmp_path / "ckpt")[2]["checksum"] == report.checksum
    assert text[8] == f"checkpoint  {tmp_path / 'ckpt'}, sha256 of the variables {report.checksum}"
    provenance = tc.load(tmp_path / "ckpt")[2]["provenance"]
    assert provenance["source"] == "lv.safetensors"
    assert provenance["mapped"] == len(given) - 6
    assert provenance["ignored"] == ["module.patch_embed.bn1.num_batches_tracked"]
    # A rectangle is read back as the rectangle it is.
    again = tc.convert.read_state_dict(tmp_path / "ckpt")
    assert again.grid == (6, 10)


def test_a_converted_model_has_its_weights_and_can_be_condensed(tmp_path):
    convert(tmp_path, overrides={"img_size": 24})
    model, variables, _ = tc.load(tmp_path / "ckpt")
    condensed = tc.condense(model, tc.GTP(neighbors=3), 2)
    assert condensed.cost().tokens == (9, 7, 5, 3)
    # Of the same variables, the same logits.
    expected = tc.convert.from_torch(weights(), model)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert jax.eval_shape(condensed.apply, variables, images_of(1)).shape == (1, 10)


def test_augreg_files_are_converted(tmp_path):
    name, overrides, _, _ = cases.case("deit")
    np.savez(tmp_path / "w.npz", **augreg(weights(), 3))
    report = tc.convert.to_checkpoint(
        str(tmp_path / "w.npz"), tmp_path / "ckpt", name, overrides=overrides, compare=False
    )
    (tmp_path / "other").mkdir()
    assert report.checksum == convert(tmp_path / "other").checksum


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["w.safetensors", "--out", "ckpt"], "which model 'w.safetensors' is of has to be said: --model NAME, one of tc.list_models()"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_smal_patch16_224"], "unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--img-size", "225"], "img_size=225 is not a multiple of patch_size=16: use 224"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--img-size", "a"], "--img-size 'a' should be like 24 or 24x16, height and width"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--num-classes", "-1"], "num_classes=-1 is negative: 0 is none"),
        (["gone.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224"], "no weight file 'gone.safetensors'"),
        (["w.safetensors", "--out", "full", "--model", "deit_small_patch16_224"], "{cwd}/full: already exists; choose another directory, or remove it"),
        (["w.safetensors", "--out", "w.safetensors/ckpt", "--model", "deit_tiny_patch16_224"], "the weights do not fit"),
        (["full", "--out", "back.safetensors"], "full: checkpoint not found"),
        (["full", "--out", "back.safetensors", "--model", "deit_tiny_patch16_224"], "--model is not for writing 'back.safetensors': a model is written as it is"),
        (["full", "--out", "back.safetensors", "--num-classes", "0"], "--num-classes is not for writing 'back.safetensors': a model is written as it is"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--grid", "9" * 5000], "--grid '999"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--entry", "model"], "'w.safetensors' has no entries to choose 'model' from: only pickled checkpoints have"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--photo", "gone.jpg"], "cannot read the photo 'gone.jpg': [Errno 2] No such file or directory: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_file(weights(), tmp_path / "w.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: " + message.format(cwd=tmp_path))
    assert printed.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "w.safetensors"]


def test_a_checkpoint_is_not_converted_again(tmp_path):
    convert(tmp_path)
    with pytest.raises(tc.InputError, match="ckpt' is a checkpoint already: --out FILE.safetensors writes its weights"):
        tc.convert.to_checkpoint(str(tmp_path / "ckpt"), tmp_path / "two", "deit_tiny_patch16_224")


def test_parity_that_fails_writes_nothing(tmp_path, monkeypatch):
    from tcvit_jax.convert import parity

    monkeypatch.setattr(parity, "largest_difference", lambda *arguments: (6.1e-4, 6.0))
    name, overrides, _, _ = cases.case("deit")
    with pytest.raises(
        tc.InputError,
        match=r"difference from timm 6.1e-04 \(of logits up to 6.0\) on a photo: nothing was written",
    ):
        tc.convert.to_checkpoint(str(written(tmp_path)), tmp_path / "ckpt", name, overrides=overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["deit.safetensors"]


def test_what_cannot_be_compared_says_why(tmp_path):
    name, overrides, _, _ = cases.case("deit")
    gray = {**weights(), "patch_embed.proj.weight": weights()["patch_embed.proj.weight"][:, :1]}
    save_file(gray, tmp_path / "gray.safetensors")
    for source, options, reason in (
        (
            tmp_path / "gray.safetensors",
            {"overrides": {**overrides, "in_chans": 1}},
            "a photo has 3 channels, and the model in_chans=1",
        ),
        (written(tmp_path), {"overrides": overrides, "new_head": True}, "the head is new"),
    ):
        report = tc.convert.to_checkpoint(source, tmp_path / reason, name, **options)
        assert report.parity == f"not compared with timm: {reason}"


def test_without_timm_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    name, overrides, _, _ = cases.case("deit")
    report = tc.convert.to_checkpoint(str(written(tmp_path)), tmp_path / "ckpt", name, overrides=overrides)
    assert report.parity.startswith("not compared with timm: torch or timm cannot be imported: ")


MEASURE = """
import re, sys, time
from tcvit_jax.convert.__main__ import main
import tcvit_jax.convert.command, orbax.checkpoint, jax
jax.devices()
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = peak()
assert main(sys.argv[1:]) == 0
print(time.process_time(), peak() - before)
"""


def test_deit_s_takes_seconds_and_less_memory_than_three_files(tmp_path):
    """A process of its own, start of Python and JAX included in the time, their own memory not in the memory.

    The time is that of the processor, which other processes of the machine do not change.
    """
    rng = np.random.default_rng(0)
    model = tc.create_model("deit_small_patch16_224")
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), models.variable_shapes(model))
    path = tmp_path / "w.safetensors"
    save_file(tc.convert.to_torch(variables, model), path)
    arguments = [str(path), "--model", "deit_small_patch16_224", "--out", str(tmp_path / "ckpt"), "--no-parity"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    seconds, kibibytes = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 10
    assert int(kibibytes) * 1024 < 3 * path.stat().st_size


def test_an_oblong_is_converted_when_its_grid_is_said(tmp_path):
    name, overrides, _, _ = cases.case("deit")
    oblong = {**overrides, "img_size": (32, 128)}
    report = tc.convert.to_checkpoint(
        written(tmp_path), tmp_path / "ckpt", name, overrides=oblong, grid=(4, 16), compare=False
    )
    assert not report.conversion.resampled
    # Its own exports say their grid.
    tc.convert.to_safetensors(tmp_path / "ckpt", tmp_path / "back.safetensors")
    again = tc.convert.to_checkpoint(
        tmp_path / "back.safetensors", tmp_path / "two", name, overrides=oblong, compare=False
    )
    assert again.checksum == report.checksum

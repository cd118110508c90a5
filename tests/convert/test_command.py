"""Conversion command: report, checkpoint, and errors."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tcvit_jax as tc
from tcvit_jax import lock, models
from tcvit_jax.convert.__main__ import main
from tcvit_jax.models import zoo
from tests.conftest import ROOT
from tests.convert import cases
from tests.convert.cases import augreg, weights
from tests.models.builders import images_of


def write_weights(tmp_path, family="deit"):
    path = tmp_path / f"{family}.safetensors"
    save_file(weights(family), path)
    return path


def convert(tmp_path, family="deit", **options):
    name, overrides, _, _ = cases.case(family)
    overrides = {**overrides, **options.pop("overrides", {})}
    return tc.convert.to_checkpoint(
        write_weights(tmp_path, family), tmp_path / "ckpt", name, overrides=overrides, compare=False, **options
    )


# `test_mapping.py` tests the round trip of the other families in memory.
@pytest.mark.parametrize("family", ["deit", "deit_distilled", "gap_fc_norm", "reg4", "lvvit"])
def test_round_trip_is_bit_exact(tmp_path, family):
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
    exported = load_file(tmp_path / "back.safetensors")
    assert set(exported) == set(weights(family))
    for key, value in weights(family).items():
        np.testing.assert_array_equal(exported[key], value)
    assert {path.name for path in tmp_path.iterdir()} == {"back.safetensors", "ckpt", f"{family}.safetensors"}


def test_report_and_provenance(tmp_path):
    name, overrides, _, _ = cases.case("lvvit")
    tensors = {f"module.{key}": value for key, value in weights("lvvit").items()}
    tensors["module.patch_embed.bn1.num_batches_tracked"] = np.asarray(5)
    save_file(tensors, tmp_path / "lv.safetensors")
    report = tc.convert.to_checkpoint(
        str(tmp_path / "lv.safetensors"), tmp_path / "ckpt", name, new_head=True, compare=False,
        overrides={**overrides, "img_size": (96, 160), "num_classes": 3},
    )  # fmt: skip
    text = str(report).splitlines()
    assert text[0] == f"source      lv.safetensors, sha256 {report.sha256}"
    assert text[1:3] == [
        "model       lvvit_s.tlt_in1k",
        f"tensors     {len(tensors) - 6} mapped, 1 resampled, 4 replaced, 1 ignored, 0 rejected, float32",
    ]
    assert text[3:6] == [
        "resampled   module.pos_embed",
        "replaced    module.aux_head.bias, module.aux_head.weight, module.head.bias, module.head.weight",
        "ignored     module.patch_embed.bn1.num_batches_tracked",
    ]
    assert text[6] == "note        prefix 'module.' was removed from names"
    assert text[7] == f"parameters  {report.parameters:,} (published model: 26,151,824)"
    assert text[8] == "parity      not compared"
    assert tc.load(tmp_path / "ckpt")[2]["checksum"] == report.checksum
    assert text[9] == f"checkpoint  {tmp_path / 'ckpt'}, variables sha256 {report.checksum}"
    provenance = tc.load(tmp_path / "ckpt")[2]["provenance"]
    assert provenance["source"] == "lv.safetensors"
    assert provenance["mapped"] == len(tensors) - 6
    assert provenance["ignored"] == ["module.patch_embed.bn1.num_batches_tracked"]
    # The checkpoint records a rectangular grid.
    assert tc.convert.read_state_dict(tmp_path / "ckpt").grid == (6, 10)


def test_converted_model_has_its_weights_and_can_be_condensed(tmp_path):
    convert(tmp_path, overrides={"img_size": 24})
    model, variables, _ = tc.load(tmp_path / "ckpt")
    condensed = tc.condense(model, tc.GTP(neighbors=3), 2)
    assert condensed.cost().tokens == (9, 7, 5, 3)
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
        (["w.safetensors", "--out", "ckpt"], "w.safetensors: cannot infer the model; pass --model NAME, one of tc.list_models()"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_smal_patch16_224"], "unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--img-size", "225"], "img_size=225: must be a positive multiple of patch_size=16; use 224"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--img-size", "a"], "--img-size='a': must be SIZE or HEIGHTxWIDTH, such as 24 or 24x16"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224", "--num-classes", "-1"], "num_classes=-1: must be >= 0"),
        (["gone.safetensors", "--out", "ckpt", "--model", "deit_small_patch16_224"], "gone.safetensors: not found"),
        (["w.safetensors", "--out", "full", "--model", "deit_small_patch16_224"], "{cwd}/full: already exists; choose another directory, or remove it"),
        (["w.safetensors", "--out", "w.safetensors/ckpt", "--model", "deit_tiny_patch16_224"], "w.safetensors/ckpt: cannot be written: "),
        (["full", "--out", "back.safetensors"], "full: checkpoint not found"),
        (["full", "--out", "back.safetensors", "--model", "deit_tiny_patch16_224"], "--model cannot be combined with --out back.safetensors: a checkpoint is exported unchanged"),
        (["full", "--out", "back.safetensors", "--num-classes", "0"], "--num-classes cannot be combined with --out back.safetensors: a checkpoint is exported unchanged"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--grid", "9" * 5000], "--grid='999"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--entry", "model"], "entry='model' requires a torch checkpoint: w.safetensors has no entries"),
        (["w.safetensors", "--out", "ckpt", "--model", "deit_tiny_patch16_224", "--photo", "gone.jpg"], "gone.jpg: not found"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_write_nothing(tmp_path, monkeypatch, capsys, arguments, message):
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


def test_checkpoint_is_not_converted_again(tmp_path):
    convert(tmp_path)
    with pytest.raises(
        tc.InputError, match="ckpt: already a checkpoint; pass --out FILE.safetensors to export its weights"
    ):
        tc.convert.to_checkpoint(str(tmp_path / "ckpt"), tmp_path / "two", "deit_tiny_patch16_224")


def test_parity_failure_writes_nothing(tmp_path, monkeypatch):
    from tcvit_jax.convert import parity

    monkeypatch.setattr(parity, "compare_logits", lambda *arguments: (6.1e-4, 6.0))
    name, overrides, _, _ = cases.case("deit")
    with pytest.raises(
        tc.InputError,
        match=r"difference from timm 6.1e-04 \(logits up to 6.0\) on a photo must be <= 6.0e-04; nothing was written",
    ):
        tc.convert.to_checkpoint(str(write_weights(tmp_path)), tmp_path / "ckpt", name, overrides=overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["deit.safetensors"]


def test_skipped_comparison_reports_reason(tmp_path):
    name, overrides, _, _ = cases.case("deit")
    gray = {**weights(), "patch_embed.proj.weight": weights()["patch_embed.proj.weight"][:, :1]}
    save_file(gray, tmp_path / "gray.safetensors")
    for source, options, reason in (
        (
            tmp_path / "gray.safetensors",
            {"overrides": {**overrides, "in_chans": 1}},
            "the photo requires in_chans=3, got in_chans=1",
        ),
        (write_weights(tmp_path), {"overrides": overrides, "new_head": True}, "the classifier is new"),
    ):
        report = tc.convert.to_checkpoint(source, tmp_path / reason, name, **options)
        assert report.parity == f"not compared with timm: {reason}"


def test_comparison_without_timm_reports_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    name, overrides, _, _ = cases.case("deit")
    report = tc.convert.to_checkpoint(str(write_weights(tmp_path)), tmp_path / "ckpt", name, overrides=overrides)
    assert report.parity.startswith("not compared with timm: cannot import torch and timm: ")


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


def test_conversion_of_deit_s_is_fast_and_needs_less_memory_than_three_files(tmp_path):
    """Measure a separate process. The time includes the start of Python and JAX, the memory does not.

    CPU time does not depend on other processes.
    """
    model = tc.create_model("deit_small_patch16_224")
    path = tmp_path / "w.safetensors"
    save_file(tc.convert.to_torch(cases.random_variables(model), model), path)
    arguments = [str(path), "--model", "deit_small_patch16_224", "--out", str(tmp_path / "ckpt"), "--no-parity"]
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    seconds, kibibytes = result.stdout.splitlines()[-1].split()
    assert float(seconds) < 10
    assert int(kibibytes) * 1024 < 3 * path.stat().st_size


def test_rectangular_grid_is_converted_with_grid_argument(tmp_path):
    name, overrides, _, _ = cases.case("deit")
    overrides = {**overrides, "img_size": (32, 128)}
    report = tc.convert.to_checkpoint(
        write_weights(tmp_path), tmp_path / "ckpt", name, overrides=overrides, grid=(4, 16), compare=False
    )
    assert not report.conversion.resampled
    # Exported files record their grid.
    tc.convert.to_safetensors(tmp_path / "ckpt", tmp_path / "back.safetensors")
    second_report = tc.convert.to_checkpoint(
        tmp_path / "back.safetensors", tmp_path / "two", name, overrides=overrides, compare=False
    )
    assert second_report.checksum == report.checksum


def test_report_names_dtypes_notes_and_warnings(tmp_path):
    name, overrides, _, _ = cases.case("reg4")
    tensors = {key: value.astype(np.float16) if value.ndim > 1 else value for key, value in weights("reg4").items()}
    tensors = cases.dinov2(tensors) | {
        "head.weight": np.zeros((10, 48), np.float32),
        "head.bias": np.ones(10, np.float32),
    }
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, tmp_path / "w.safetensors")
    report = tc.convert.to_checkpoint(
        tmp_path / "w.safetensors", tmp_path / "ckpt", name, overrides={**overrides, "num_classes": 10}, compare=False
    )
    rows = [line.partition(" ")[::2] for line in str(report).splitlines()]
    content = {label: text.strip() for label, text in rows}
    assert content["tensors"].endswith("0 rejected, float16 (14) and float32 (37)")
    assert content["ignored"] == "mask_token"
    assert content["float16"].startswith("blocks.0.{0-2}.attn.proj.weight, blocks.0.{0-2}.attn.qkv.weight, ")
    assert content["note"] == "pos_embed: positions of prefix tokens that were added to the tokens: 1"
    warning = "head.weight: all zeros, so that the predicted class does not depend on the image"
    assert content["warning"] == warning
    provenance = tc.load(tmp_path / "ckpt")[2]["provenance"]
    assert provenance["warnings"] == [warning]
    assert provenance["notes"] == [content["note"]]


@pytest.mark.slow
def test_official_dinov2_file_and_file_of_timm_give_equal_logits(script, tmp_path, capsys):
    """Convert a full-size model with registers from a file without suffix, and from one with timm's names."""
    name = "vit_small_patch14_reg4_dinov2"
    model = tc.create_model(name, img_size=28)
    tensors = tc.convert.to_torch(cases.random_variables(model, scale=0.05), model)
    files = {
        "official": {f"teacher.backbone.{key}": value for key, value in cases.dinov2(tensors).items()},
        "timm.safetensors": tensors,
    }
    extra = {"official": "teacher.dino_head.weight", "timm.safetensors": "projector.0"}
    flags = {"official": ["--prefix", "teacher.backbone."], "timm.safetensors": ["--ignore", "projector.*"]}
    for file, named in files.items():
        named = {key: np.ascontiguousarray(value) for key, value in named.items()}
        save_file(named | {extra[file]: np.ones(3, np.float32)}, tmp_path / file)
        arguments = [str(tmp_path / file), "--model", name, "--img-size", "28", "--no-parity"]
        arguments += ["--out", str(tmp_path / f"{file}_ckpt")]
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert f"({' '.join(flags[file])})" in printed.err.replace("'", "")
        if file == "official":
            result = script("tcvit_jax.convert", *arguments, *flags[file])
            assert result.returncode == 0, result.stderr
            report = result.stdout
        else:
            assert main([*arguments, *flags[file]]) == 0
            report = capsys.readouterr().out
        assert f"selection   {flags[file][0].removeprefix('--')} '{flags[file][1]}': " in report
    images = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    (model, first, _), (_, second, _) = (tc.load(tmp_path / f"{file}_ckpt") for file in files)
    apply = jax.jit(model.apply)
    outputs = [np.asarray(apply(variables, images)) for variables in (first, second)]
    assert outputs[0].shape == (2, 384)
    np.testing.assert_allclose(*outputs, rtol=0, atol=2e-6 * abs(outputs[0]).max())


def test_steps_of_a_conversion_are_reported_when_they_start(tmp_path):
    steps = []
    source, out = tmp_path / "deit.safetensors", tmp_path / "ckpt"
    convert(tmp_path, progress=steps.append)
    tc.convert.to_safetensors(out, tmp_path / "out.safetensors", progress=steps.append)
    assert steps == [
        f"reading {source}", f"computing the SHA-256 of {source}", f"writing {out}",
        f"reading {out}", f"writing {tmp_path / 'out.safetensors'}",
    ]  # fmt: skip


def test_lock_of_a_dead_process_is_taken_over_with_a_notice(tmp_path, capsys):
    convert(tmp_path)
    out = tmp_path / "back.safetensors"
    lock.beside(out).write_text(json.dumps({"host": "another", "process": 7, "since": "2026-01-01"}))
    os.utime(lock.beside(out), (0, 0))
    assert main([str(tmp_path / "ckpt"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: taken over from process 7 on another since 2026-01-01")
    assert not lock.beside(out).exists()

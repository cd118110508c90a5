"""Tests of AOT compilation for TPUs: on CPU devices, and one compilation with libtpu."""

import importlib.util
import json

import pytest

from tcvit_jax import models, sharding
from tcvit_jax.errors import InputError
from tcvit_jax.measure import tpu
from tcvit_jax.measure.tpu import Program
from tcvit_jax.reducers import TopK
from tests.models.builders import small

HLO = """
HloModule jit_apply
ENTRY %main.1 (p0: f32[4,8]) -> f32[4,8] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %all-reduce.3 = f32[4,8]{1,0} all-reduce(%p0), replica_groups=[1,4]<=[4], to_apply=%add
  %all-gather-start.1 = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%all-reduce.3), dimensions={0}
  %all-gather-done.1 = f32[16,8]{1,0} all-gather-done(%all-gather-start.1)
  %all-reduce.4 = (f32[4]{0}, f32[4]{0}) all-reduce(%a, %b), to_apply=%add, metadata={op_name="my all-to-all"}
  ROOT %fusion.1 = f32[4,8]{1,0} fusion(%all-gather-done.1, %all-reduce.4), kind=kLoop, calls=%all-reduce_fusion
}
"""


def test_collectives_are_counted_once():
    assert tpu.collectives(HLO) == {"all-gather": 1, "all-reduce": 2}
    assert tpu.collectives("ENTRY %main { ROOT %all-reduce_like = f32[] add(%a, %b) }") == {}


def test_table_has_ratios_to_the_oracle_slice():
    programs = [
        Program("dense", 1200.04, 17.4, 84, 300, 0.5, {}, 29),
        Program("oracle", 700, 10, 84, 281, 0.5, {}, 58),
        Program("gtp", 714, 11.5, 84, 290, 0.5, {"all-gather": 2, "all-reduce": 1}, 85),
    ]
    heading, dense, oracle, gtp = tpu.table(programs).splitlines()
    assert heading.split()[:4] == ["GFLOP", "ratio", "GB", "ratio"]
    assert dense.split()[:5] == ["dense", "1200.0", "1.714", "17.40", "1.740"]
    assert oracle.split()[1:5] == ["700.0", "1.000", "10.00", "1.000"]
    assert gtp.split()[1:5] == ["714.0", "1.020", "11.50", "1.150"]
    assert dense.endswith("  none") and gtp.endswith("  2 all-gather, 1 all-reduce")


def test_cost_on_eight_devices_without_collectives():
    mesh = sharding.data_mesh()
    # TopK is cheap; in a tiny model, a graph costs more than the reduction saves.
    models_by_name = {"dense": small(depth=2), "topk": small(TopK(), [18, 0], depth=2)}
    dense, topk = (tpu.compile_forward(name, model, mesh, 2) for name, model in models_by_name.items())
    for program, model in zip((dense, topk), models_by_name.values(), strict=True):
        assert program.collectives == {}
        # Two images with two operations per multiply-add, plus operations that are not products.
        assert 4e-9 * model.cost().computed_macs < program.gflop < 6e-9 * model.cost().computed_macs
        assert program.arguments_mib > models.count_parameters(model) * 4 / 2**20
        assert min(program.gigabytes, program.temporaries_mib, program.output_mib, program.seconds) > 0
    assert topk.gflop < dense.gflop


def test_build_models_has_the_dense_model_and_the_oracle_slice():
    candidates = tpu.build_models("deit_tiny_patch16_224", ["gtp", "tome"], [13, 0, 5], "float32", depth=3)
    assert list(candidates) == ["dense", "oracle", "gtp", "tome"]
    assert [model.cost().tokens[-1] for model in candidates.values()] == [196, 178, 178, 178]
    assert {model.depth for model in candidates.values()} == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "deit_smal_patch16_224"], "error: unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (["--reducer", "gtp,tvcit"], "error: unknown reducer 'tvcit': did you mean 'tcvit'?"),
        (["--schedule", "13,x"], "error: --schedule='13,x': must be a number such as 13, or one number for each block such as 13,13,0"),
        (["--dtype", "bfloat"], "error: unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        (["--batch-per-chip", "0"], "error: --batch-per-chip=0: must be >= 1"),
    ],
)  # fmt: skip
def test_invalid_arguments_print_one_line(arguments, message, capsys):
    assert tpu.main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [message]


def test_missing_libtpu_prints_how_to_install_it(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    assert tpu.main(["--depth", "2"]) == 2
    message = "error: compilation for TPUs requires libtpu: run pip install -e '.[tpu]'"
    assert capsys.readouterr().err.splitlines() == [message]


def test_unknown_topology_is_an_error(monkeypatch):
    from jax.experimental import topologies

    def fail(**_):
        raise RuntimeError("INVALID_ARGUMENT: Invalid TPU external name: TPU v99")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", fail)
    with pytest.raises(
        InputError, match="--topology='v99:2x2': must be a TPU topology such as v5e:2x2 .*; INVALID_ARGUMENT: Invalid"
    ):
        tpu.pod("v99:2x2")


def test_command_compiles_for_the_topology_and_writes_json(monkeypatch, capsys, tmp_path):
    """The full command, on eight CPU devices instead of TPU chips."""
    monkeypatch.setattr(tpu, "pod", lambda topology: sharding.data_mesh())
    model = small(depth=1)
    monkeypatch.setattr(tpu, "build_models", lambda *_: {"dense": model, "oracle": model})
    assert tpu.main(["--json", str(tmp_path / "pod.json"), "--batch-per-chip", "1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["GFLOP", "dense", "oracle"]
    figures = json.loads((tmp_path / "pod.json").read_text())
    assert figures["topology"] == "v5e:2x2" and figures["batch_per_chip"] == 1
    assert [program["name"] for program in figures["programs"]] == ["dense", "oracle"]


def test_json_that_cannot_be_written_prints_one_line(monkeypatch, capsys, tmp_path):
    program = Program("oracle", 700, 10, 84, 281, 0.5, {}, 58)
    monkeypatch.setattr(tpu, "pod", lambda topology: sharding.data_mesh())
    monkeypatch.setattr(tpu, "build_models", lambda *_: {"oracle": None})
    monkeypatch.setattr(tpu, "compile_forward", lambda *_: program)
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "pod.json"
    assert tpu.main(["--json", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error in (f"error: {path}: cannot be written: {reason}" for reason in ("File exists", "Not a directory"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="requires libtpu, the TPU compiler")
def test_two_blocks_compile_for_four_chips(script, tmp_path):
    """Two blocks with the shapes of DeiT-S; takes minutes."""
    command = ["--depth", "2", "--json", str(tmp_path / "pod.json")]
    process = script("tcvit_jax.measure.tpu", *command, JAX_PLATFORMS="")
    assert process.returncode == 0, process.stderr
    programs = {program["name"]: program for program in json.loads((tmp_path / "pod.json").read_text())["programs"]}
    assert list(programs) == ["dense", "oracle", "gtp", "tcvit"]
    for program in programs.values():
        assert program["collectives"] == {}
        assert program["gflop"] < programs["dense"]["gflop"] * 1.001

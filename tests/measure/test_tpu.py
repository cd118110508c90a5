"""The compiled pod: its counts and its words without a TPU's compiler, and one compilation with it."""

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


def test_every_collective_is_counted_once():
    assert tpu.collectives(HLO) == {"all-gather": 1, "all-reduce": 2}
    assert tpu.collectives("ENTRY %main { ROOT %all-reduce_like = f32[] add(%a, %b) }") == {}


def test_the_table_compares_with_the_slice():
    programs = [
        Program("dense", 1200.04, 17.4, 84, 300, 0.5, {}, 29),
        Program("slice", 700, 10, 84, 281, 0.5, {}, 58),
        Program("gtp", 714, 11.5, 84, 290, 0.5, {"all-gather": 2, "all-reduce": 1}, 85),
    ]
    head, dense, cut, gtp = tpu.table(programs).splitlines()
    assert head.split()[:4] == ["GFLOP", "ratio", "GB", "ratio"]
    assert dense.split()[:5] == ["dense", "1200.0", "1.714", "17.40", "1.740"]
    assert cut.split()[1:5] == ["700.0", "1.000", "10.00", "1.000"]
    assert gtp.split()[1:5] == ["714.0", "1.020", "11.50", "1.150"]
    assert dense.endswith("  none") and gtp.endswith("  2 all-gather, 1 all-reduce")


def test_a_program_is_measured_on_each_of_eight_devices_and_holds_no_collective():
    mesh = sharding.data_mesh()
    # Of two tiny blocks, choosing by a graph would cost more than it saves.
    models_by_name = {"dense": small(depth=2), "topk": small(TopK(), [18, 0], depth=2)}
    dense, cut = (tpu.compile_forward(name, model, mesh, 2) for name, model in models_by_name.items())
    for program, model in zip((dense, cut), models_by_name.values(), strict=True):
        assert program.collectives == {}
        # Two images, two operations to a multiply-add, and what is no product on top.
        assert 4e-9 * model.cost().computed_macs < program.gflop < 6e-9 * model.cost().computed_macs
        assert program.arguments_mib > models.count_parameters(model) * 4 / 2**20
        assert min(program.gigabytes, program.temporaries_mib, program.output_mib, program.seconds) > 0
    assert cut.gflop < dense.gflop


def test_the_slice_is_between_the_dense_model_and_the_methods():
    made = tpu.build_models("deit_tiny_patch16_224", ["gtp", "tome"], [13, 0, 5], "float32", depth=3)
    assert list(made) == ["dense", "slice", "gtp", "tome"]
    assert [model.cost().tokens[-1] for model in made.values()] == [196, 178, 178, 178]
    assert {model.depth for model in made.values()} == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "deit_smal_patch16_224"], "error: unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (["--reducer", "gtp,tvcit"], "error: unknown reducer 'tvcit': did you mean 'tcvit'?"),
        (["--schedule", "13,x"], "error: --schedule '13,x' should be like 13, or 13,13,0 with a number for each block"),
        (["--dtype", "bfloat"], "error: unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        (["--batch-per-chip", "0"], "error: --batch-per-chip 0 is no batch: use 128"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert tpu.main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [message]


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    assert tpu.main(["--depth", "2"]) == 2
    message = "error: libtpu is not installed, which compiles for TPUs: pip install -e '.[tpu]'"
    assert capsys.readouterr().err.splitlines() == [message]


def test_an_unknown_topology_is_one_line(monkeypatch):
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError("INVALID_ARGUMENT: Invalid TPU external name: TPU v99")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError, match="--topology 'v99:2x2' is none .* like v5e:2x2 .*: INVALID_ARGUMENT: Invalid"):
        tpu.pod("v99:2x2")


def test_the_command_compiles_for_the_pod_and_writes_its_figures(monkeypatch, capsys, tmp_path):
    """The whole command, on this machine's eight devices instead."""
    monkeypatch.setattr(tpu, "pod", lambda topology: sharding.data_mesh())
    model = small(depth=1)
    monkeypatch.setattr(tpu, "build_models", lambda *_: {"dense": model, "slice": model})
    assert tpu.main(["--json", str(tmp_path / "pod.json"), "--batch-per-chip", "1"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["GFLOP", "dense", "slice"]
    figures = json.loads((tmp_path / "pod.json").read_text())
    assert figures["topology"] == "v5e:2x2" and figures["batch_per_chip"] == 1
    assert [program["name"] for program in figures["programs"]] == ["dense", "slice"]


def test_figures_that_cannot_be_written_are_one_line(monkeypatch, capsys, tmp_path):
    program = Program("slice", 700, 10, 84, 281, 0.5, {}, 58)
    monkeypatch.setattr(tpu, "pod", lambda topology: sharding.data_mesh())
    monkeypatch.setattr(tpu, "build_models", lambda *_: {"slice": None})
    monkeypatch.setattr(tpu, "compiled", lambda *_: program)
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "pod.json"
    assert tpu.main(["--json", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error in (f"error: {path}: cannot be written: {reason}" for reason in ("File exists", "Not a directory"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the TPU's compiler")
def test_two_blocks_compile_for_four_chips(script, tmp_path):
    """Same shapes as the whole DeiT-S; minutes."""
    command = ["--depth", "2", "--json", str(tmp_path / "pod.json")]
    ran = script("tcvit_jax.measure.tpu", *command, JAX_PLATFORMS="")
    assert ran.returncode == 0, ran.stderr
    programs = {program["name"]: program for program in json.loads((tmp_path / "pod.json").read_text())["programs"]}
    assert list(programs) == ["dense", "slice", "gtp", "tcvit"]
    for program in programs.values():
        assert program["collectives"] == {}
        assert program["gflop"] < programs["dense"]["gflop"] * 1.001

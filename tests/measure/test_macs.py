"""Tests of the ledger: its lines, its totals, and the cost analysis of the compiler."""

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.measure.macs import STAGES
from tcvit_jax.measure.oracle import oracle
from tcvit_jax.models.create import variable_shapes
from tests.models.builders import small
from tests.switches import MAIN_METHODS, METHODS

# One model of each family; families differ in their stem, prefix tokens, norms and head.
FAMILIES = (
    "deit_small_patch16_224", "deit_small_distilled_patch16_224", "deit3_small_patch16_224",
    "vit_small_patch32_224.augreg_in21k", "vit_medium_patch16_gap_256", "eva_large_patch14_196",
    "vit_base_patch16_clip_quickgelu_224", "vit_small_patch16_224.dino", "vit_small_patch14_reg4_dinov2", "lvvit_s",
)  # fmt: skip


@pytest.mark.parametrize("reducer", [None, *METHODS])
def test_lines_and_stages_sum_to_the_total(reducer):
    ledger = tc.measure.ledger(small(reducer, [5, 0, 9], img_size=24))
    assert sum(line.total for line in ledger.lines) == ledger.total == ledger.cost.total
    assert sum(line.dense for line in ledger.lines) == ledger.dense.total
    assert list(ledger.stages) == list(STAGES)
    assert sum(ledger.stages.values()) == ledger.total
    overhead = sum(ledger.stages[stage] for stage in ("signals", "score", "match", "fuse"))
    assert overhead == ledger.cost.reducer
    assert (overhead == 0) == (reducer is None or isinstance(reducer, tc.TopK | tc.Random | tc.Uniform | tc.ATS))


@pytest.mark.parametrize("reducer", METHODS)
def test_table_has_all_lines_and_stages(reducer):
    ledger = tc.describe(small(reducer, [6, 0, 10], img_size=24))
    name, headings, *lines = str(ledger).splitlines()
    lines, summary = lines[:-2], lines[-2:]
    assert name == f"{ledger.name}" and "\n".join(summary) == ledger.summary()
    assert headings.split() == ["tokens", *(stage for stage in STAGES if ledger.stages[stage]), "MMACs", "dense"]
    rows = {line[:10].strip(): line for line in lines}
    assert list(rows) == [line.name for line in ledger.lines] + ["total", "skipped", "computed"]
    last = {row: [float(cell) for cell in text[22:].split()[-2:]] for row, text in rows.items()}
    for line in ledger.lines:
        assert last[line.name] == pytest.approx([line.total / 1e6, line.dense / 1e6], abs=5e-4)
    # Skipped patch tokens of the last block have a separate line, also for the dense model.
    assert last["total"] == pytest.approx([ledger.total / 1e6, ledger.dense.total / 1e6], abs=5e-4)
    assert last["skipped"] == pytest.approx([-ledger.cost.skipped / 1e6, -ledger.dense.skipped / 1e6], abs=5e-4)
    assert last["computed"] == pytest.approx([ledger.computed_macs / 1e6, ledger.dense.computed_macs / 1e6], abs=5e-4)
    assert ledger.cost.skipped > 0 and ledger.dense.skipped > ledger.cost.skipped
    after = 30 + reducer.extra_tokens
    assert ledger.tokens == (36, after, after, after - 10 + reducer.extra_tokens)
    assert f"{after} -> {after}" in rows["block 1"]
    # The reducer has no cost in a block that removes no tokens.
    assert ledger.cost.blocks[1].reducer == 0
    assert 0 < ledger.savings < 1


def test_model_with_average_pooling_skips_nothing():
    table = str(tc.describe(small(tc.GTP(), 5, global_pool="avg")))
    assert "skipped" not in table
    assert "computed" not in table


def test_oracle_slice_has_a_ledger():
    model = tc.create_model("deit_tiny_patch16_224", tc.GTP(), 8)
    assert str(tc.describe(oracle(model))).startswith("deit_tiny_patch16_224, reducer Oracle()")


def test_dense_model_saves_nothing():
    ledger = tc.describe(small())
    assert ledger.savings == 0
    assert ledger.cost == ledger.dense
    assert ledger.summary().splitlines() == [
        "tokens  36 -> 36 -> 36 -> 36",
        f"GMACs   {ledger.gmacs:.4g}, dense {ledger.gmacs:.4g} (0.0% saved)",
    ]


@pytest.mark.parametrize(
    ("name", "removed", "total", "computed"),
    [
        ("deit_small_patch16_224", 0, 4.599, 4.280), ("deit_small_patch16_224", 8, 3.42, None),
        ("deit_small_patch16_224", 13, 2.70, None), ("deit_small_patch16_224", 16, 2.28, None),
        ("deit_base_patch16_224", 0, 17.564, None), ("lvvit_s", 0, 6.551, 6.551),
    ],
)  # fmt: skip
def test_totals_equal_published_macs(name, removed, total, computed):
    """Published MACs omit the reducer, and top-k pruning has no cost."""
    ledger = tc.measure.ledger(tc.create_model(name, tc.TopK(), removed))
    digits = len(str(total).split(".")[1])
    assert round(ledger.total / 1e9, max(digits, 2)) == total
    if computed:
        assert round(ledger.computed_macs / 1e9, 3) == computed


def check_against_compiler(name, reducer, compiles=False):
    """Compare the ledger with half of XLA's operation count, before or after compilation.

    The model has two blocks of full width. The first plans; the second plans only if the head reads patch tokens.
    """
    # At DINOv2's default of 518 pixels, the softmax is 2.8 % of the compiler's count, and the ledger does not count it.
    sizes = {"img_size": 224} if "dinov2" in name else {}
    model = tc.create_model(name, depth=2, **sizes)
    model = tc.condense(model, reducer, tc.schedule.at_most([model.grid[0] * model.grid[1] // 4] * 2))
    images = jax.ShapeDtypeStruct((1, *model.img_size, model.in_chans), np.float32)
    program = jax.jit(model.apply).lower(variable_shapes(model), images)
    if compiles:
        # Operations are counted before code generation, so its lowest optimization level suffices.
        program = program.compile({"xla_backend_optimization_level": 0})
    macs = program.cost_analysis()["flops"] / 2
    assert macs == pytest.approx(tc.measure.ledger(model).computed_macs, rel=0.02)


# Lowering takes a fifth of the time of compiling, and compilation changes the count by less than 0.3 %.
@pytest.mark.parametrize("reducer", [None, *METHODS])
def test_ledger_equals_the_lowered_program_of_each_reducer(reducer):
    check_against_compiler("deit_small_patch16_224", reducer)


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_ledger_equals_the_lowered_program_of_each_family(name):
    check_against_compiler(name, tc.GTP())


@pytest.mark.parametrize("reducer", [None, *MAIN_METHODS])
def test_ledger_equals_the_compiled_program(reducer):
    check_against_compiler("deit_small_patch16_224", reducer, compiles=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reducer"),
    [
        pytest.param(name, *method.values, id=f"{name}-{method.id}")
        for name in FAMILIES
        for method in METHODS
        if tc.create_model(name).class_token or not method.values[0].needs_class_token
    ],
)
def test_ledger_equals_the_compiled_program_of_each_reducer_and_family(name, reducer):
    check_against_compiler(name, reducer, compiles=True)

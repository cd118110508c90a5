"""The table of tokens and multiply-adds."""

import pytest

import tcvit_jax as tc
from tests.models.test_vit import METHODS, small


@pytest.mark.parametrize("reducer", METHODS)
def test_the_lines_add_up_to_the_total(reducer):
    ledger = tc.describe(small(reducer, [5, 0, 9], img_size=24))
    table = [line for line in str(ledger).splitlines()[2:] if not line.startswith(("tokens", "GMACs"))]
    rows = {line[:10].strip(): line for line in table}
    numbers = {name: [float(word) for word in line[22:].split()] for name, line in rows.items()}
    total, unread, computed = (numbers.pop(name) for name in ("total", "not read", "computed"))
    # What the last block leaves out is on a line of its own, for the dense model too.
    assert total[0] + unread[0] == pytest.approx(computed[0], abs=0.002)
    assert total[1] + unread[1] == pytest.approx(computed[1], abs=0.002)
    assert unread[0] < 0 and unread[1] < unread[0]
    assert total[0] == pytest.approx(sum(row[0] for row in numbers.values()), abs=0.01)
    assert total[1] == pytest.approx(sum(row[1] for row in numbers.values()), abs=0.01)
    assert total[0] == pytest.approx(ledger.gmacs * 1e3, abs=0.001)
    assert ledger.tokens == (36, 31, 31, 22)
    assert "31 -> 31" in rows["block 1"]
    # A block that removes nothing costs the reducer nothing.
    assert ledger.cost.blocks[1].reducer == 0
    assert 0 < ledger.saved < 1


def test_a_model_that_reads_its_patches_leaves_nothing_out():
    table = str(tc.describe(small(tc.GTP(), 5, global_pool="avg")))
    assert "not read" not in table
    assert "computed" not in table


def test_a_dense_model_saves_nothing():
    ledger = tc.describe(small())
    assert ledger.saved == 0
    assert ledger.cost == ledger.dense
    assert ledger.summary().splitlines() == [
        "tokens  36 -> 36 -> 36 -> 36",
        f"GMACs   {ledger.gmacs:.4g}, dense {ledger.gmacs:.4g} (0.0% saved)",
    ]

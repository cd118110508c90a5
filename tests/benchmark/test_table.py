import csv
import io

import pytest

from tcvit_jax import InputError
from tcvit_jax.benchmark.table import CELLS, as_csv, as_markdown, check

LISTS = {"seeds": [0, 1], "tokens": [9, 6, 3]}


def row(**changes):
    return {**dict.fromkeys(CELLS, 1.5), "reducer": "GTP()", **LISTS, "images": 10, "parameters": 7, **changes}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("nothing", [None, "gone"])
def test_a_missing_cell_is_an_error(cell, nothing):
    broken = row(**{cell: nothing})
    if nothing == "gone":
        del broken[cell]
    with pytest.raises(InputError, match=f"has no {cell}$"):
        check([row(), broken])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "", []])
def test_a_cell_that_holds_nothing_is_missing(value):
    with pytest.raises(InputError, match=r"the row of GTP\(\) at 1.5 GMACs has no top1"):
        check([row(top1=value)])


def test_a_cell_that_nobody_knows_is_an_error():
    with pytest.raises(InputError, match="'topp1'"):
        check([row(topp1=1.0)])


def test_zero_is_a_value():
    check([row(difference=0.0, seconds_plan=0.0)])


def test_csv_has_a_column_for_every_cell():
    lines = list(csv.DictReader(io.StringIO(as_csv([row(), row(reducer="TCViT(fuse='soft', order=3)")]))))
    assert list(lines[0]) == list(CELLS)
    assert lines[1]["reducer"] == "TCViT(fuse='soft', order=3)"
    assert lines[0]["tokens"] == "9 6 3"


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_markdown_is_a_table_with_as_many_cells_as_headings(seeds):
    text = as_markdown([row(reducer="dense", seeds=seeds), row(seeds=seeds), row(reducer="ToMe()", seeds=seeds)])
    lines = text.splitlines()[2:]
    assert len({line.count("|") for line in lines}) == 1
    assert "against GTP(), 95 %" in lines[0]
    assert ("lowest to highest" in lines[0]) == (len(seeds) > 1)
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["dense", "GTP()", "ToMe()"]

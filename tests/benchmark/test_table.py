import csv
import io

import pytest

from tcvit_jax import InputError
from tcvit_jax.benchmark.table import as_csv, as_markdown, check, columns, method_name

LISTS = {"seeds": [0, 1], "tokens": [9, 6, 3], "img_size": [8, 8]}
METRICS = ("top1", "top5")
COLUMNS = columns(METRICS)


def make_row(**changes):
    return {**dict.fromkeys(COLUMNS, 1.5), "reducer": "GTP()", **LISTS, "images": 10, "parameters": 7, **changes}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("is_deleted", [False, True])
def test_missing_value_is_an_error(column, is_deleted):
    row = make_row(**{column: None})
    if is_deleted:
        del row[column]
    with pytest.raises(InputError, match=f"column '{column}' is missing$"):
        check([make_row(), row], METRICS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "", []])
def test_empty_or_non_finite_value_is_missing(value):
    with pytest.raises(InputError, match=r"row GTP\(\) at 1.5 GMACs: column 'top1' is missing"):
        check([make_row(top1=value)], METRICS)


def test_unknown_column_is_an_error():
    with pytest.raises(InputError, match="unknown column 'topp1': did you mean 'top1'?"):
        check([make_row(topp1=1.0)], METRICS)


def test_zero_is_not_missing():
    check([make_row(difference=0.0, seconds_plan=0.0)], METRICS)


def test_csv_has_all_columns():
    lines = list(
        csv.DictReader(io.StringIO(as_csv([make_row(), make_row(reducer="TCViT(fuse='soft', order=3)")], METRICS)))
    )
    assert list(lines[0]) == list(COLUMNS)
    assert lines[1]["reducer"] == "TCViT(fuse='soft', order=3)"
    assert lines[0]["tokens"] == "9 6 3"


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_markdown_rows_have_one_cell_per_heading(seeds):
    reducers = ("dense", "GTP()", "ToMe()")
    text = as_markdown([make_row(reducer=reducer, seeds=seeds) for reducer in reducers], METRICS)
    lines = text.splitlines()[2:]
    assert len({line.count("|") for line in lines}) == 1
    assert "difference to GTP() (95 % CI)" in lines[0]
    assert ("range over seeds" in lines[0]) == (len(seeds) > 1)
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(reducers)


def test_method_of_a_row():
    names = {"dense": "dense", "dense at 8x10 px": "dense at a lower resolution", "GTP(alpha=0.2)": "GTP"}
    assert {name: method_name(name) for name in names} == names

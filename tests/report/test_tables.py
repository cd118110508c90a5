"""Tables are readable by their parsers."""

import csv
import io

from tcvit_jax.report import tables


def test_csv_is_read_back_and_lists_are_separated_by_spaces():
    rows = [{"name": 'TCViT(fuse="soft", order=3)', "tokens": [36, 28]}, {"name": "dense", "tokens": [36]}]
    text = tables.as_csv(rows, ("name", "tokens"))
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"name": 'TCViT(fuse="soft", order=3)', "tokens": "36 28"},
        {"name": "dense", "tokens": "36"},
    ]


def test_markdown_has_a_line_for_the_headings_and_for_each_row():
    assert tables.as_markdown(("a", "b"), [("1", "2"), ("3", "4")]) == "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"

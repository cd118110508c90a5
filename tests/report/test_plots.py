"""Curves, and what happens without matplotlib."""

import sys

from PIL import Image

from tcvit_jax.report.plots import draw_curves

HISTORY = [{"step": 1, "loss": 2.0}, {"step": 2, "val_loss": 1.5, "val_top1": 0.5}, {"step": 3, "loss": 1.0}]


def test_curves_are_a_picture_with_more_than_paper_on_it(tmp_path):
    assert draw_curves(HISTORY, tmp_path / "curves.png", "run")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 500
        assert len(set(picture.convert("L").tobytes())) > 50


def test_an_empty_history_draws_empty_axes(tmp_path):
    assert draw_curves([], tmp_path / "curves.png", "run")


def test_without_matplotlib_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curves(HISTORY, tmp_path / "curves.png", "run")
    assert not (tmp_path / "curves.png").exists()

"""Training curves, with and without matplotlib."""

import sys

from PIL import Image

from tcvit_jax.report.plots import draw_curves

HISTORY = [{"step": 1, "loss": 2.0}, {"step": 2, "val_loss": 1.5, "val_top1": 0.5}, {"step": 3, "loss": 1.0}]


def test_draw_curves_writes_a_non_blank_image(tmp_path):
    assert draw_curves(HISTORY, tmp_path / "curves.png", "run")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 500
        assert len(set(image.convert("L").tobytes())) > 50


def test_draw_curves_accepts_an_empty_history(tmp_path):
    assert draw_curves([], tmp_path / "curves.png", "run")


def test_draw_curves_returns_false_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curves(HISTORY, tmp_path / "curves.png", "run")
    assert not (tmp_path / "curves.png").exists()

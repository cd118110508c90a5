"""The command lines in `tools/`: `--help` works and does not import JAX."""

import importlib
import subprocess
import sys

import pytest

from tcvit_jax.command import Parser, PathArgument
from tests.conftest import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text())


def test_number_of_tools():
    assert len(TOOLS) == 11


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_help_of_every_tool(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-W", "error", "-X", "importtime", str(path), "--help"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"usage: {path.name}")
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "tcvit_jax.reducers" not in imported and "jax" not in imported


PATHS = {
    "compare_transformers": {"directory", "photos"}, "feature_tasks": {"directory", "out"},
    "fashion_finetune": {"data", "weights", "out"}, "fashion_ledger": {"benchmark", "runs"},
    "kept_patches": {"checkpoint", "picture"}, "pictures": {"directory", "wheel"}, "off_the_shelf": {"checkpoints"}, "walk_order": {"checkpoint", "picture"},
    "input_rate": set(), "load_time": set(), "overhead": set(),
}  # fmt: skip


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_paths_of_every_tool_are_expanded(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    parser = Parser()
    importlib.import_module(path.stem).add_arguments(parser)
    assert {each.dest for each in parser._actions if isinstance(each, PathArgument)} == PATHS[path.stem]

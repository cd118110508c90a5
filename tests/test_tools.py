"""The programs in `tools/`: each starts and says what it does, before it imports what it computes with."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text())


def test_there_are_tools():
    assert len(TOOLS) == 7


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_every_tool_describes_its_flags(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-W", "error", "-X", "importtime", str(path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {path.name}")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tcvit_jax.reducers" not in imported and "jax" not in imported

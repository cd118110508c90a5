"""Names, spelling and error messages follow the conventions of CONTRIBUTING.md in the whole tree."""

import ast
import re
import subprocess

import pytest

from tests.conftest import ROOT

# Names that say nothing, and former names of concepts that have a standard one.
BANNED_NAMES = {
    "found", "whole", "cut", "taught", "said", "owed", "theirs", "known", "mixed", "given", "used", "fate", "likeness",
    "most", "follow", "Site", "Work", "Step", "TRIED", "SHAPE", "Notice", "warmdown", "Warmdown", "OF_MACHINES",
    "reads_class", "bound", "Heads", "exponentials", "hidden", "blend", "words", "dialect", "room", "unread", "caught",
}  # fmt: skip
BRITISH = re.compile(
    r"colour|neighbour|behaviour|favour|honour|labour|centre|licence|(?<![a-z])grey|catalogue|defence|fulfil(?![l])"
    r"|labell|modell(?=ed|ing)|cancell(?=ed|ing)|travell|signall(?=ed|ing)"
    r"|(?:al|anon|author|categor|character|custom|emphas|equal|general|harmon|initial|local|material|maxim|minim|mobil|normal"
    r"|optim|organ|parallel|penal|quant|random|real|recogn|regular|serial|special|stabil|standard|summar|symbol|synchron"
    r"|token|util|vector|visual)is(?=e|ing|ation)|analys(?=e[ds]?\b|ing)",
    re.IGNORECASE,
)
# A former key, which its error and the changelog quote.
QUOTED = re.compile("renormalise")


TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PYTHON = [name for name in TRACKED if name.endswith(".py")]
# This file and the changelog quote words that are banned elsewhere.
PROSE = [
    name
    for name in TRACKED
    if name.endswith((".py", ".md", ".toml", ".cff", ".yml")) and name not in ("CHANGELOG.md", "tests/test_language.py")
]
# `errors.py` makes the errors of all other modules.
PACKAGE = [name for name in PYTHON if name.startswith("tcvit_jax/") and name != "tcvit_jax/errors.py"]


def defined_names(tree):
    """Yield every name that a module defines, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.ExceptHandler(name=str()):
                yield node.name, node.lineno


@pytest.mark.parametrize("name", PYTHON)
def test_names_are_standard_terms(name):
    names = list(defined_names(ast.parse((ROOT / name).read_text())))
    assert [(each, line) for each, line in names if each.strip("_") in BANNED_NAMES] == []


@pytest.mark.parametrize("name", PROSE)
def test_spelling_is_american(name):
    lines = (ROOT / name).read_text().splitlines()
    british = [(number, line.strip()) for number, line in enumerate(lines, 1) if BRITISH.search(QUOTED.sub("", line))]
    assert british == []


@pytest.mark.parametrize("name", PACKAGE)
def test_errors_are_worded_in_one_module(name):
    calls = (node for node in ast.walk(ast.parse((ROOT / name).read_text())) if isinstance(node, ast.Call))
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "InputError"] == []

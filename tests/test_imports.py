"""Imports point one way, and the package is light until it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tcvit_jax"
# What each package or module may import; `errors` may be imported by all, and `command` by every command line.
MAY_IMPORT = {
    "errors": (),
    "command": (),
    "atomic": (),
    "tokens": (),
    "ops": ("tokens",),
    "reducers": ("ops", "tokens"),
    "schedule": (),
    "models": ("ops", "reducers", "schedule", "tokens"),
    "checkpoint": ("atomic", "models", "sharding"),
    "convert": ("atomic", "checkpoint", "data", "models", "ops"),
    "measure": ("atomic", "models", "ops", "reducers", "sharding", "tokens"),
    "data": ("atomic",),
    "report": ("atomic", "tokens"),
    "sharding": (),
    "config": ("models", "reducers", "schedule"),
    "evaluation": ("models", "ops", "sharding"),
    "assembly": (
        "checkpoint", "config", "convert", "data", "evaluation", "measure", "models", "reducers", "schedule", "sharding",
    ),
    "benchmark": (
        "assembly", "atomic", "checkpoint", "config", "data", "evaluation", "measure", "models", "ops", "reducers", "report",
        "schedule", "sharding", "tokens",
    ),
    "training": (
        "assembly", "atomic", "checkpoint", "config", "data", "evaluation", "measure", "models", "ops", "reducers", "report",
        "sharding", "tokens",
    ),
    "train": ("config", "training"),
    "eval": ("assembly", "config"),
}  # fmt: skip
HEAVY = ("torch", "timm", "huggingface_hub", "tensorflow", "sklearn", "matplotlib", "grain", "tensorflow_datasets")


def imported(path):
    """Names of modules that a file imports, with whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "tcvit_jax":
                yield from ((f"tcvit_jax.{alias.name}", id(node) in top) for alias in node.names)
            else:
                yield node.module, id(node) in top


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_its_arrows():
    assert {room_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    for name, _ in imported(path):
        parts = name.split(".")
        if parts[0] == "tcvit_jax" and parts[1] != "__version__":
            assert parts[1] in (room, "errors", "command", *MAY_IMPORT[room]), f"{room} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_and_heavy_packages_wait_until_they_are_needed(path):
    assert not [name for name, top in imported(path) if top and name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("room", ["data", "ops", "reducers"])
def test_rooms_without_their_neighbours_libraries(room):
    forbidden = {"data": ("jax", "flax"), "ops": ("flax",), "reducers": ("flax",)}[room]
    for path in (PACKAGE / room).rglob("*.py"):
        assert not [name for name, _ in imported(path) if name.split(".")[0] in forbidden], path


def test_importing_the_package_loads_no_jax():
    code = "import sys, tcvit_jax; assert 'jax' not in sys.modules; tcvit_jax.GTP; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=PACKAGE.parent)


def test_every_public_name_resolves():
    import tcvit_jax

    for name in tcvit_jax.__all__:
        assert getattr(tcvit_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'GPT'"):
        _ = tcvit_jax.GPT

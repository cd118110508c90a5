"""The dependencies between packages, and the cost of importing them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tcvit_jax"
# The packages that each package or module may import, in addition to `errors` and `command`.
MAY_IMPORT = {
    "errors": (),
    "command": ("devices", "files", "interrupts"),
    "devices": (),
    "files": (),
    "interrupts": (),
    "atomic": ("devices",),
    "lock": ("atomic",),
    "pickles": ("files",),
    "tokens": (),
    "ops": ("tokens",),
    "reducers": ("ops", "tokens"),
    "schedule": (),
    "presets": ("atomic", "files", "reducers", "schedule", "schema"),
    "models": ("ops", "reducers", "schedule", "tokens"),
    "schema": ("files",),
    "manifest": ("files", "schema"),
    "checkpoint": ("atomic", "devices", "manifest", "models", "schema", "sharding"),
    "convert": ("atomic", "checkpoint", "data", "files", "lock", "models", "ops", "pickles", "report", "schema"),
    "loading": ("checkpoint", "convert", "files", "models", "reducers", "schedule", "sharding"),
    "measure": ("atomic", "models", "ops", "reducers", "sharding", "tokens"),
    "data": ("atomic", "files", "pickles"),
    "preprocessing": ("data", "files", "models", "ops"),
    "report": ("atomic", "files", "schema", "tokens"),
    "sharding": (),
    "config": ("files", "models", "presets", "reducers", "schedule"),
    "evaluation": ("models", "ops", "sharding"),
    "assembly": (
        "checkpoint", "config", "convert", "data", "evaluation", "loading", "measure", "models", "reducers", "report",
        "schedule", "sharding",
    ),
    "tasks": (
        "assembly", "checkpoint", "convert", "data", "evaluation", "files", "measure", "models", "ops", "report", "sharding",
    ),
    "benchmark": (
        "assembly", "atomic", "checkpoint", "config", "data", "evaluation", "lock", "measure", "models", "ops", "reducers",
        "presets", "report", "schedule", "schema", "sharding", "tasks", "tokens",
    ),
    "search": (
        "assembly", "atomic", "benchmark", "checkpoint", "config", "data", "lock", "models", "presets", "reducers",
        "report", "schedule", "sharding", "tasks",
    ),
    "training": (
        "assembly", "atomic", "checkpoint", "config", "data", "evaluation", "manifest", "measure", "models", "ops", "reducers",
        "report", "devices", "interrupts", "lock", "schedule", "sharding", "tokens",
    ),
    "__main__": (),
    "train": ("config", "training"),
    "eval": ("assembly", "config", "tasks"),
}  # fmt: skip
HEAVY = ("torch", "timm", "huggingface_hub", "tensorflow", "sklearn", "matplotlib", "grain", "tensorflow_datasets")


def imports_of(path):
    """Yield the name of each module that a file imports, and whether the import is at the top level."""
    tree = ast.parse(path.read_text())
    top_level = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top_level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "tcvit_jax":
                yield from ((f"tcvit_jax.{alias.name}", id(node) in top_level) for alias in node.names)
            else:
                yield node.module, id(node) in top_level


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_package_has_dependencies_listed():
    assert {package_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_import_only_their_dependencies(path):
    package = package_of(path)
    for name, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] == "tcvit_jax" and parts[1] != "__version__":
            assert parts[1] in (package, "errors", "command", *MAY_IMPORT[package]), f"{package} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_lazily(path):
    assert not [name for name, is_top_level in imports_of(path) if is_top_level and name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("package", ["data", "ops", "reducers"])
def test_package_does_not_import_forbidden_libraries(package):
    forbidden = {"data": ("jax", "flax"), "ops": ("flax",), "reducers": ("flax",)}[package]
    for path in (PACKAGE / package).rglob("*.py"):
        assert not [name for name, _ in imports_of(path) if name.split(".")[0] in forbidden], path


def test_importing_the_package_does_not_import_jax():
    code = "import sys, tcvit_jax; assert 'jax' not in sys.modules; tcvit_jax.GTP; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=PACKAGE.parent)


@pytest.mark.parametrize(
    "module", ["train", "eval", "convert.__main__", "benchmark.__main__", "search.__main__", "training.pod"]
)
def test_commands_start_before_jax_is_imported(module):
    """So `--help` is fast, and Ctrl-C is one line."""
    code = f"import sys, tcvit_jax.{module}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=PACKAGE.parent)


def test_every_public_name_resolves():
    import tcvit_jax

    for name in tcvit_jax.__all__:
        assert getattr(tcvit_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'GPT'"):
        _ = tcvit_jax.GPT

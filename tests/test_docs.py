"""The documentation runs: every block of Python and of shell in `README.md` and `docs/` as it stands.

The blocks of a page run in order, in a directory that looks like a checkout with two trained models. A block that cannot
run here says so in an invisible comment right above it: `<!-- not run: needs a TPU -->`. `pytest tests/test_docs.py -rP`
prints how many blocks run and how many do not.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock
from sybil.document import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from tests.compilation import FAST_COMPILATION
from tests.conftest import ROOT
from tests.convert import cases

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Other languages are output or data. A fence with any other name is a mistake.
EXECUTED = ("python", "bash")
SHOWN = ("", "text", "yaml", "json")
LEXER = RawFencedCodeBlockLexer(re.compile(r"[ \t]*(?P<language>[\w-]*)[^\n]*\n"))
MARK = re.compile(r"<!-- not run: (?P<reason>\S.*) -->\s*\Z")
RUNS = ("digits_dense", "digits_gtp")
WEIGHTS = "deit_small_patch16_224.safetensors"
TIMEOUT = 180


def mark_of(document, region):
    """Return why a block does not run, or None."""
    match = MARK.search(document.text[: region.start])
    return match and match["reason"]


def blocks(page):
    """Yield `(place, language, reason)` of every fenced block of a page; the reason is None for a block that runs."""
    document = Document(page.read_text(), str(page))
    for region in LEXER(document):
        yield document.line_column(region.start), region.lexemes["language"], mark_of(document, region)


def parser(run_python, run_bash):
    """Return a parser of Sybil that yields the blocks that run."""
    evaluators = {"python": run_python, "bash": run_bash}

    def parse(document):
        for region in LEXER(document):
            if region.lexemes["language"] in EXECUTED and mark_of(document, region) is None:
                region.parsed, region.evaluator = region.lexemes["source"], evaluators[region.lexemes["language"]]
                yield region

    return parse


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A directory that the processes of this session share, with the runs `RUNS` and the weight file `WEIGHTS`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docs"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "runs").exists():
            short = ("--config.epochs=1", "--config.optimizer.warmup_epochs=0.2")
            started = [
                subprocess.Popen(
                    [sys.executable, ROOT / "train.py", f"--config={ROOT / 'configs' / name}.py", *short,
                     f"--config.workdir={folder / 'drafts' / name}"],
                    env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                )
                for name in RUNS
            ]  # fmt: skip
            for process in started:
                output, _ = process.communicate(timeout=TIMEOUT)
                assert process.returncode == 0, output
            write_weights(folder / WEIGHTS)
            (folder / "drafts").rename(folder / "runs")
    return folder


def write_weights(path):
    """Write random weights in the format of timm."""
    from safetensors.numpy import save_file

    import tcvit_jax as tc

    model = tc.create_model(path.stem)
    save_file(tc.convert.to_torch(cases.random_variables(model, scale=0.02), model), path)


def environment(folder):
    """Return the environment of a shell block: this Python, this package, one device, no network."""
    return {
        **os.environ,
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "XLA_FLAGS": FAST_COMPILATION,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def checkout(shared, tmp_path, monkeypatch):
    """Change to a directory that looks like a checkout after `train.py`."""
    for name in ("configs", "examples", "tools", "tests", "docs", "train.py", "eval.py", "README.md"):
        if name == "docs":
            (tmp_path / name).mkdir()  # The tools write pictures there.
        else:
            (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / WEIGHTS).symlink_to(shared / WEIGHTS)
    for name in RUNS:
        shutil.copytree(shared / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_known(page):
    for place, language, reason in blocks(page):
        assert language in (*EXECUTED, *SHOWN), f"{page}, {place}: unknown language {language!r}"
        assert reason is None or language in EXECUTED, (
            f"{page}, {place}: {language!r} blocks never run: remove the mark"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(language in EXECUTED and not reason for _, language, reason in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_blocks_run(page, shared, checkout):
    def run_bash(example):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", example.parsed], capture_output=True, text=True, cwd=checkout,
            env=environment(shared), timeout=TIMEOUT,
        )  # fmt: skip
        print(done.stdout)
        return None if done.returncode == 0 else f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"

    document = Document.parse(str(page), parser(PythonEvaluator(), run_bash))
    for example in document.examples():
        example.evaluate()


def test_enough_blocks_run():
    reasons = [reason for page in PAGES for _, language, reason in blocks(page) if language in EXECUTED]
    marked = [reason for reason in reasons if reason]
    executed = len(reasons) - len(marked)
    print(f"{executed} blocks run, {len(marked)} do not")
    assert executed >= 40, f"{executed} blocks run, {len(marked)} do not"

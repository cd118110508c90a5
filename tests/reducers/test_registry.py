"""Names of reducers: found by themselves in this package, by module and class in another."""

import re
import subprocess
import sys
import textwrap
from abc import abstractmethod
from dataclasses import dataclass

import pytest

import tcvit_jax as tc
from tcvit_jax import reducers
from tcvit_jax.benchmark import __main__ as benchmark
from tcvit_jax.measure.oracle import Oracle
from tcvit_jax.reducers import base
from tests.conftest import ROOT

FILES = {"ats", "cross", "diffrate", "dpcknn", "evit", "gtp", "kmedoids", "mctf", "pitome", "random", "tcvit", "tofu", "tome", "topk", "tps", "uniform"}  # fmt: skip


def test_every_file_of_the_package_with_a_reducer_is_found_under_its_class_name():
    assert set(reducers.REDUCERS) >= FILES
    assert list(reducers.REDUCERS) == sorted(reducers.REDUCERS)
    for name, kind in reducers.REDUCERS.items():
        assert name == kind.__name__.lower()
        assert getattr(tc, kind.__name__) is getattr(reducers, kind.__name__) is kind
        assert kind.__name__ in tc.__all__
        assert kind.__name__ in dir(tc)
        assert kind.__name__ in dir(reducers)


def test_helpers_and_wrong_case_are_no_reducers():
    for name in ("Gtp", "GPT", "Helper"):
        for module in (tc, reducers):
            with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
                getattr(module, name)
    assert not {"base", "reducer", "parts", "scores"} & set(reducers.REDUCERS)


def test_all_are_the_methods_and_no_combination_of_their_parts():
    # The one that a benchmark compares the others with is the first.
    others = [kind for name, kind in reducers.REDUCERS.items() if name not in ("cross", "gtp")]
    assert [type(reducer) for reducer in reducers.parse("all")] == [tc.GTP, *others]


def test_a_field_without_effect_is_an_error():
    with pytest.raises(tc.InputError, match=r"temperature=0.5 has no effect: it requires fuse='soft'"):
        reducers.parse("tome,tcvit(temperature=0.5)")
    with pytest.raises(tc.InputError, match="unknown field of reducer 'none'"):
        reducers.from_config({"name": "none", "alpha": 0.2})


@pytest.fixture
def built_in(monkeypatch):
    """Define a class as a module of the package does; the registry is the old one afterwards."""
    monkeypatch.setattr(base, "BUILT_IN", dict(base.BUILT_IN))

    def define(module="tcvit_jax.reducers.mine", name="Mine", bases=(tc.Reducer,), **members):
        return type(name, bases, {"__module__": module, "__qualname__": name, **members})

    return define


PARTS = property(lambda self: tc.GTP().parts)


def test_a_concrete_class_registers_itself_and_an_abstract_one_does_not(built_in):
    abstract = built_in(name="Abstract")
    other = built_in(name="AlsoAbstract", bases=(abstract,), parts=PARTS, more=abstractmethod(lambda self: 0))
    assert not {"abstract", "alsoabstract"} & set(base.BUILT_IN)
    mine = built_in(bases=(other,), more=lambda self: 1)
    assert base.BUILT_IN["mine"] is mine
    mine()


def test_the_same_class_again_replaces_itself_and_another_one_of_its_name_is_refused(built_in):
    built_in(parts=PARTS)
    again = built_in(parts=PARTS)
    assert base.BUILT_IN["mine"] is again
    with pytest.raises(tc.InputError) as caught:
        built_in("tcvit_jax.reducers.yours", name="MINE", parts=PARTS)
    assert str(caught.value) == (
        "reducer 'mine': tcvit_jax.reducers.mine:Mine and tcvit_jax.reducers.yours:MINE cannot both have this name; "
        "rename one"
    )
    assert base.BUILT_IN["mine"] is again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gtp", (tc.GTP(),)),
        (" gtp , tome,", (tc.GTP(), tc.ToMe())),
        ("tcvit(order=3, fuse=soft)", (tc.TCViT(order=3, fuse="soft"),)),
        ("tcvit(match_order=none,self_loops=FALSE),evit( )", (tc.TCViT(self_loops=False), tc.EViT())),
        ("diffrate(pruned=[1, (2)]),gtp(score='mixed_max')", (tc.DiffRate(pruned=(1, 2)), tc.GTP())),
        ("tcvit_jax.measure.oracle:Oracle", (Oracle(),)),
        ("gtp,tcvit_jax.measure.oracle:Oracle(attention_keep=.5)", (tc.GTP(), Oracle(attention_keep=0.5))),
        ("", ()),
    ],
)
def test_reducers_are_read_from_text(text, expected):
    assert reducers.parse(text) == expected


FORM = "must be names with commas between them, such as gtp,tcvit(order=3)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, f"reducers {text!r} {FORM}")
            for text in ("gtp(", "gtp)", "gtp(3)", "gtp(**{})", "gtp tome", ",gtp", "gtp,,tome", ":Mine", "a:b:C", "3")
        ),
        ("gtp(alpha=1 + x)", "reducers 'gtp(alpha=1 + x)': 1 + x must be a number, a list or a word"),
        ("gpt", "unknown reducer 'gpt': did you mean 'gtp'?"),
        ("tome,none", "reducers 'tome,none' hold 'none', which reduces nothing: the dense model is compared anyhow"),
        (
            "tome(fuse=')')",
            "unknown field of reducer 'tome': 'fuse': must be one of attention_keep, proportional_attention",
        ),
        ("nowhere.mod:Mine", "reducer 'nowhere.mod:Mine': requires the package 'nowhere', which is not installed"),
        ("tcvit_jax.mod:Mine", "reducer 'tcvit_jax.mod:Mine': module 'tcvit_jax.mod' not found"),
        ("tcvit_jax.tokens:Mine", "reducer 'tcvit_jax.tokens:Mine': class 'Mine' not found in module 'tcvit_jax.tokens'"),
        *(
            (name, f"reducer {name!r}: {name.rpartition(':')[2]!r} must be a class that derives from tcvit_jax.Reducer")
            for name in ("tcvit_jax.tokens:Plan", "tcvit_jax.tokens:Plan.survivors", "tcvit_jax.reducers.base:Reducer")
        ),
        (
            "tcvit_jax.measure.oracle:Oracle(attention_kep=1)",
            "unknown field of reducer 'tcvit_jax.measure.oracle:Oracle': 'attention_kep': did you mean 'attention_keep'?",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_text_are_one_line(text, message):
    with pytest.raises(tc.InputError) as caught:
        reducers.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", [3, None, "a:b:c", "..mod:Mine", "mod:", ""])
def test_a_name_of_another_form_is_unknown(name):
    with pytest.raises(tc.InputError, match="unknown reducer"):
        reducers.from_config({"name": name})


def test_a_class_that_cannot_be_imported_again_is_not_written_down():
    @dataclass(frozen=True, repr=False)
    class Local(Oracle):
        pass

    with pytest.raises(tc.InputError) as caught:
        reducers.to_config(Local())
    assert str(caught.value) == (
        "reducer Local(): its class is defined in a function and cannot be imported by name; "
        "define it at the top level of a module"
    )
    Local.__module__, Local.__qualname__ = "__main__", "Local"
    with pytest.raises(tc.InputError, match="its class is defined in __main__"):
        reducers.to_config(Local())


MINE = '''"""A reducer of another package."""

from dataclasses import dataclass

import jax.numpy as jnp

import tcvit_jax as tc
from tcvit_jax.reducers.fusions import DROP


@dataclass(frozen=True, repr=False)
class Mine(tc.Reducer):
    """Keep the longest tokens.

    Attributes:
        order: of the norm.
    """

    order: float = 2.0

    def rank(self, tokens: tc.Tokens, signals: tc.Signals, keep: int):
        return jnp.linalg.norm(tokens.patches.astype(jnp.float32), self.order, axis=-1)

    @property
    def parts(self) -> tc.Parts:
        return tc.Parts(tc.Score(self.rank), None, DROP)
'''
TINY = (
    "--config", "configs/digits_gtp.py", "--config.reducer.name=mypkg.mod:Mine", "--config.reducer.order=1.0",
    "--config.schedule=6", "--config.epochs=1", "--config.optimizer.warmup_epochs=0", "--config.model.depth=2",
    "--config.model.embed_dim=32", "--config.model.num_heads=2",
)  # fmt: skip


@pytest.mark.slow
def test_a_reducer_of_another_package_trains_loads_and_is_benchmarked(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").touch()
    (tmp_path / "mypkg" / "mod.py").write_text(MINE)
    run = str(tmp_path / "run")
    trained = script("train.py", *TINY, f"--config.workdir={run}", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert trained.returncode == 0, trained.stderr
    assert "reducer mypkg.mod:Mine" in trained.stdout

    missing = "reducer 'mypkg.mod:Mine': requires the package 'mypkg', which is not installed"
    with pytest.raises(tc.InputError) as caught:
        tc.load(run)
    assert str(caught.value) == missing
    compare = ["--checkpoint", run, "--macs-fraction", "0.75", "--rounds", "1", "--batch", "8"]
    compare += ["--out", str(tmp_path / "out")]
    assert benchmark.main([*compare, "--reducers", "mypkg.mod:Mine"]) == 2
    assert capsys.readouterr().err == f"error: {missing}\n"

    monkeypatch.syspath_prepend(tmp_path)
    model, _, _ = tc.load(run)
    assert reducers.parse("gtp, mypkg.mod:Mine(order=1)") == (tc.GTP(), model.reducer)
    assert reducers.to_config(model.reducer) == {
        "name": "mypkg.mod:Mine", "proportional_attention": True, "attention_keep": 1.0, "order": 1.0,
    }  # fmt: skip
    assert benchmark.main([*compare, "--reducers", "mypkg.mod:Mine(order=3)"]) == 0
    assert "Mine(order=3" in capsys.readouterr().out
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
        monkeypatch.delitem(sys.modules, name)


def test_the_file_that_the_guide_shows_is_all_that_a_reducer_takes(tmp_path):
    """In a copy of the package with one more file."""
    package = tmp_path / "tcvit_jax"
    package.mkdir()
    for path in (ROOT / "tcvit_jax").iterdir():
        if path.name not in ("reducers", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "reducers").mkdir()
    for path in (ROOT / "tcvit_jax" / "reducers").glob("*.py"):
        (package / "reducers" / path.name).symlink_to(path)
    guide = (ROOT / "CONTRIBUTING.md").read_text().partition("## A new reducer")[2]
    shown = re.search(r" +```python\n(.*?)\n +```\n", guide, re.DOTALL)
    assert shown is not None
    (package / "reducers" / "anything.py").write_text(textwrap.dedent(shown[1]))
    code = (
        "import tcvit_jax as tc; from tcvit_jax import reducers; assert tc.Norm is reducers.REDUCERS['norm'];"
        "assert reducers.parse('norm(p=1.5)') == (tc.Norm(p=1.5),); assert tc.Norm() in reducers.parse('all');"
        "assert reducers.from_config(reducers.to_config(tc.Norm())) == tc.Norm(); assert 'Norm' in dir(tc)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)

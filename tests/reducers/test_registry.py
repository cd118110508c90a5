"""Names of reducers: class names in this package, module and class in any other."""

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

FILES = {"ats", "cross", "cubistmerge", "diffrate", "dpcknn", "evit", "gtp", "kmedoids", "mctf", "pitome", "random", "representationshift", "saliencymerging", "tcvit", "tofu", "tome", "topk", "tps", "uniform", "wardtome"}  # fmt: skip


def test_reducers_of_the_package_are_registered_under_their_class_names():
    assert set(reducers.REDUCERS) >= FILES
    assert list(reducers.REDUCERS) == sorted(reducers.REDUCERS)
    for name, kind in reducers.REDUCERS.items():
        assert name == kind.__name__.lower()
        assert getattr(tc, kind.__name__) is getattr(reducers, kind.__name__) is kind
        assert kind.__name__ in tc.__all__
        assert kind.__name__ in dir(tc)
        assert kind.__name__ in dir(reducers)


def test_modules_and_other_capitalizations_are_not_reducers():
    for name in ("Gtp", "GPT", "Helper"):
        for module in (tc, reducers):
            with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
                getattr(module, name)
    assert not {"base", "reducer", "parts", "scores"} & set(reducers.REDUCERS)


def test_all_contains_methods_but_not_cross():
    # The reference method of benchmarks comes first.
    others = [kind for name, kind in reducers.REDUCERS.items() if name not in ("cross", "gtp")]
    assert [type(reducer) for reducer in reducers.parse("all")] == [tc.GTP, *others]


def test_inactive_field_is_an_error():
    with pytest.raises(tc.InputError) as error:
        reducers.parse("tome,tcvit(temperature=0.5)")
    assert str(error.value) == (
        "temperature=0.5 in reducers='tome,tcvit(temperature=0.5)' requires fuse='soft' or fuse='topm': "
        "it has no effect otherwise"
    )
    with pytest.raises(tc.InputError, match="alpha=0.2 cannot be combined with reducer 'none': it has no fields"):
        reducers.from_config({"name": "none", "alpha": 0.2})


@pytest.fixture
def define(monkeypatch):
    """Return a function that defines a class as in a module of the package; the registry is restored afterwards."""
    monkeypatch.setattr(base, "BUILT_IN", dict(base.BUILT_IN))

    def define_class(module="tcvit_jax.reducers.custom", name="Custom", bases=(tc.Reducer,), **members):
        return type(name, bases, {"__module__": module, "__qualname__": name, **members})

    return define_class


PARTS = property(lambda self: tc.GTP().parts)


def test_concrete_classes_are_registered_and_abstract_ones_are_not(define):
    abstract = define(name="Abstract")
    other = define(name="AlsoAbstract", bases=(abstract,), parts=PARTS, more=abstractmethod(lambda self: 0))
    assert not {"abstract", "alsoabstract"} & set(base.BUILT_IN)
    custom = define(bases=(other,), more=lambda self: 1)
    assert base.BUILT_IN["custom"] is custom
    custom()


def test_redefined_class_replaces_itself_and_another_class_of_its_name_is_rejected(define):
    define(parts=PARTS)
    redefined = define(parts=PARTS)
    assert base.BUILT_IN["custom"] is redefined
    with pytest.raises(tc.InputError) as error:
        define("tcvit_jax.reducers.other", name="CUSTOM", parts=PARTS)
    assert str(error.value) == (
        "reducer 'custom': defined by both tcvit_jax.reducers.custom:Custom and tcvit_jax.reducers.other:CUSTOM; "
        "rename one of them"
    )
    assert base.BUILT_IN["custom"] is redefined


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
def test_parse_reads_reducers_from_text(text, expected):
    assert reducers.parse(text) == expected


CONDITION = "must be a comma-separated list such as gtp,tcvit(order=3)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, f"reducers={text!r}: {CONDITION}")
            for text in ("gtp(", "gtp)", "gtp(3)", "gtp(**{})", "gtp tome", ",gtp", "gtp,,tome", ":Custom", "a:b:C", "3")
        ),
        ("gtp(alpha=1 + x)", "reducers='gtp(alpha=1 + x)': expected a number, list or name, got 1 + x"),
        ("gpt", "unknown reducer 'gpt': did you mean 'gtp'?"),
        ("tome,none", "reducers='tome,none': must not contain 'none'; the dense model is always compared"),
        (
            "tome(fuse=')')",
            "unknown tome field 'fuse': must be one of attention_keep, proportional_attention",
        ),
        ("nowhere.mod:Custom", "reducer 'nowhere.mod:Custom' requires the package 'nowhere': install it or set PYTHONPATH"),
        ("tcvit_jax.mod:Custom", "reducer 'tcvit_jax.mod:Custom': module 'tcvit_jax.mod' not found"),
        ("tcvit_jax.tokens:Custom", "reducer 'tcvit_jax.tokens:Custom': class 'Custom' not found in module 'tcvit_jax.tokens'"),
        *(
            (name, f"reducer={name!r}: must be a concrete subclass of tcvit_jax.Reducer")
            for name in ("tcvit_jax.tokens:Plan", "tcvit_jax.tokens:Plan.survivors", "tcvit_jax.reducers.base:Reducer")
        ),
        (
            "tcvit_jax.measure.oracle:Oracle(attention_kep=1)",
            "unknown tcvit_jax.measure.oracle:Oracle field 'attention_kep': did you mean 'attention_keep'?",
        ),
    ],
)  # fmt: skip
def test_invalid_text_gives_one_line_errors(text, message):
    with pytest.raises(tc.InputError) as error:
        reducers.parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize("name", [3, None, "a:b:c", "..mod:Custom", "mod:", ""])
def test_malformed_name_is_unknown(name):
    with pytest.raises(tc.InputError, match="unknown reducer"):
        reducers.from_config({"name": name})


def test_class_that_cannot_be_imported_has_no_config():
    @dataclass(frozen=True, repr=False)
    class Local(Oracle):
        pass

    with pytest.raises(tc.InputError) as error:
        reducers.to_config(Local())
    assert str(error.value) == (
        "reducer Local(): its class is defined in a function and cannot be imported by name; "
        "define it at the top level of a module"
    )
    Local.__module__, Local.__qualname__ = "__main__", "Local"
    with pytest.raises(tc.InputError, match="its class is defined in __main__"):
        reducers.to_config(Local())


MODULE = '''"""A reducer of another package."""

from dataclasses import dataclass

import jax.numpy as jnp

import tcvit_jax as tc
from tcvit_jax.reducers.fusions import DROP


@dataclass(frozen=True, repr=False)
class Custom(tc.Reducer):
    """Pruning by the norm of features.

    Attributes:
        order: The order of the norm.
    """

    order: float = 2.0

    def rank(self, tokens: tc.Tokens, signals: tc.Signals, keep: int):
        return jnp.linalg.norm(tokens.patches.astype(jnp.float32), self.order, axis=-1)

    @property
    def parts(self) -> tc.Parts:
        return tc.Parts(tc.Score(self.rank), None, DROP)
'''
TINY = (
    "--config", "configs/digits_gtp.py", "--config.reducer.name=mypkg.mod:Custom", "--config.reducer.order=1.0",
    "--config.schedule=6", "--config.epochs=1", "--config.optimizer.warmup_epochs=0", "--config.model.depth=2",
    "--config.model.embed_dim=32", "--config.model.num_heads=2",
)  # fmt: skip


@pytest.mark.slow
def test_reducer_of_another_package_trains_loads_and_is_benchmarked(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "__init__.py").touch()
    (tmp_path / "mypkg" / "mod.py").write_text(MODULE)
    run = str(tmp_path / "run")
    training = script("train.py", *TINY, f"--config.workdir={run}", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert training.returncode == 0, training.stderr
    assert "reducer mypkg.mod:Custom" in training.stdout

    message = (
        f"{run}/checkpoints/11/meta: model: reducer 'mypkg.mod:Custom' requires the package 'mypkg': "
        "install it or set PYTHONPATH"
    )
    with pytest.raises(tc.InputError) as error:
        tc.load(run)
    assert str(error.value) == message
    out = str(tmp_path / "out")
    compare = ["--checkpoint", run, "--macs-fraction", "0.75", "--rounds", "1", "--batch", "8", "--out", out]
    assert benchmark.main([*compare, "--reducers", "mypkg.mod:Custom"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"

    monkeypatch.syspath_prepend(tmp_path)
    model, _, _ = tc.load(run)
    assert reducers.parse("gtp, mypkg.mod:Custom(order=1)") == (tc.GTP(), model.reducer)
    assert reducers.to_config(model.reducer) == {
        "name": "mypkg.mod:Custom", "proportional_attention": True, "attention_keep": 1.0, "order": 1.0,
    }  # fmt: skip
    assert benchmark.main([*compare, "--reducers", "mypkg.mod:Custom(order=3)"]) == 0
    assert "Custom(order=3" in capsys.readouterr().out
    for name in [name for name in sys.modules if name.partition(".")[0] == "mypkg"]:
        monkeypatch.delitem(sys.modules, name)


def test_reducer_of_the_guide_works(tmp_path):
    """In a copy of the package with the module of the guide added."""
    package = tmp_path / "tcvit_jax"
    package.mkdir()
    for path in (ROOT / "tcvit_jax").iterdir():
        if path.name not in ("reducers", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "reducers").mkdir()
    for path in (ROOT / "tcvit_jax" / "reducers").glob("*.py"):
        (package / "reducers" / path.name).symlink_to(path)
    guide = (ROOT / "docs" / "add-a-reducer.md").read_text()
    example = re.search(r" *```python\n(.*?)\n *```\n", guide, re.DOTALL)
    assert example is not None
    (package / "reducers" / "anything.py").write_text(textwrap.dedent(example[1]))
    code = (
        "import tcvit_jax as tc; from tcvit_jax import reducers; assert tc.Norm is reducers.REDUCERS['norm'];"
        "assert reducers.parse('norm(p=1.5)') == (tc.Norm(p=1.5),); assert tc.Norm() in reducers.parse('all');"
        "assert reducers.from_config(reducers.to_config(tc.Norm())) == tc.Norm(); assert 'Norm' in dir(tc)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)

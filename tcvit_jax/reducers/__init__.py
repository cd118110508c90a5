"""The methods, one file each. A new one: a file with its dataclass, and a line in `REDUCERS`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.reducers.ats import ATS
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.cross import Cross
from tcvit_jax.reducers.diffrate import DiffRate
from tcvit_jax.reducers.dpcknn import DPCKNN
from tcvit_jax.reducers.evit import EViT
from tcvit_jax.reducers.gtp import GTP
from tcvit_jax.reducers.kmedoids import KMedoids
from tcvit_jax.reducers.mctf import MCTF
from tcvit_jax.reducers.pitome import PiToMe
from tcvit_jax.reducers.random import Random
from tcvit_jax.reducers.tcvit import TCViT
from tcvit_jax.reducers.tofu import ToFu
from tcvit_jax.reducers.tome import ToMe
from tcvit_jax.reducers.topk import TopK
from tcvit_jax.reducers.tps import TPS
from tcvit_jax.reducers.uniform import Uniform

REDUCERS: dict[str, type[Reducer]] = {
    "gtp": GTP, "tcvit": TCViT, "tome": ToMe, "evit": EViT, "topk": TopK, "random": Random, "uniform": Uniform,
    "diffrate": DiffRate, "pitome": PiToMe, "tofu": ToFu, "tps": TPS, "dpcknn": DPCKNN, "kmedoids": KMedoids,
    "mctf": MCTF, "ats": ATS, "cross": Cross,
}  # fmt: skip

__all__ = [
    "ATS", "DPCKNN", "GTP", "MCTF", "REDUCERS", "TPS", "Cross", "DiffRate", "EViT", "KMedoids", "PiToMe", "Random",
    "Reducer", "TCViT", "ToFu", "ToMe", "TopK", "Uniform", "from_config", "parse", "to_config",
]  # fmt: skip


def to_config(reducer: Reducer | None) -> dict[str, Any]:
    """A reducer as plain values, `{"name": "gtp", "alpha": 0.1, ...}`; `None` is `{"name": "none"}`.

    Raises:
        InputError: one that is not in `REDUCERS`.
    """
    if reducer is None:
        return {"name": "none"}
    name = next((name for name, kind in REDUCERS.items() if kind is type(reducer)), None)
    if name is None:
        raise InputError(f"reducer {reducer!r} has no name to write it down by: it is none of {', '.join(REDUCERS)}")
    return {"name": name, **asdict(reducer)}


def from_config(config: Mapping[str, Any]) -> Reducer | None:
    """The reducer that `to_config` wrote down; fields left out take the method's defaults.

    Raises:
        InputError: a name or a field that no reducer has.
    """
    values = dict(config)
    name = values.pop("name")
    if name == "none":
        return None
    if name not in REDUCERS:
        raise unknown("reducer", name, [*REDUCERS, "none"])
    kind = REDUCERS[name]
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise unknown(f"field of reducer {name!r}:", key, known)
    return kind(**values)


def parse(text: str) -> tuple[Reducer, ...]:
    """Reducers as they are typed in one argument: `gtp,tcvit(order=3, fuse=soft)`, or `all`.

    Raises:
        InputError: another form, a name or a field that no reducer has.
    """
    if text == "all":
        return tuple(kind() for kind in REDUCERS.values() if kind is not Cross)
    try:
        parsed = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError as error:
        raise InputError(f"reducers {text!r} should be names with commas, such as gtp,tcvit(order=3)") from error
    assert isinstance(parsed, ast.List)
    found = [from_config(_as_config(node, text)) for node in parsed.elts]
    if None in found:
        raise InputError(f"reducers {text!r} hold 'none', which reduces nothing: the dense model is compared anyhow")
    return tuple(reducer for reducer in found if reducer is not None)


def _as_config(node: ast.expr, text: str) -> dict[str, Any]:
    called = node.func if isinstance(node, ast.Call) else node
    if not isinstance(called, ast.Name) or (isinstance(node, ast.Call) and node.args):
        raise InputError(f"reducers {text!r} should be names with commas, such as gtp,tcvit(order=3)")
    keywords = node.keywords if isinstance(node, ast.Call) else []
    return {"name": called.id, **{str(keyword.arg): _value(keyword.value, text) for keyword in keywords}}


def _value(node: ast.expr, text: str) -> Any:
    """A number, a list, a truth value; a bare word is a string."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise InputError(f"reducers {text!r} hold a value that is none: {ast.unparse(node)}") from error

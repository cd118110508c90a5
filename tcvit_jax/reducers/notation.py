"""Text notation of reducers, such as `gtp,tcvit(order=3, fuse=soft),package.module:Class(field=0.5)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from tcvit_jax.errors import InputError, invalid, out_of_range

# The name of a preset may be a path.
_NAME = re.compile(r"\s*(preset:[^\s,()]+|[^\W\d][\w.]*(?::[^\W\d][\w.]*)?)\s*")
_COMMA = re.compile(r"\s*(,\s*|$)")


def configs(text: str) -> Iterator[dict[str, Any]]:
    """Yield the configuration of each reducer in `text`.

    Args:
        text: Names separated by commas, each with optional fields in parentheses.

    Yields:
        The name and the fields of a reducer.

    Raises:
        InputError: The text is malformed.
    """
    position = 0
    while position < len(text):
        name = _NAME.match(text, position)
        if name is None:
            raise _malformed(text)
        values, position = _fields(text, name.end())
        comma = _COMMA.match(text, position)
        if comma is None:
            raise _malformed(text)
        position = comma.end()
        yield {"name": name[1], **values}


def _fields(text: str, start: int) -> tuple[dict[str, Any], int]:
    """Return the fields in the parentheses that open at `start`, if any, and the position behind them."""
    if text[start : start + 1] != "(":
        return {}, start
    # The matching parenthesis is the first one that makes a valid call; earlier ones are inside a string or a tuple.
    for closing in re.finditer(r"\)", text[start:]):
        end = start + closing.end()
        try:
            call = ast.parse(f"reducer{text[start:end]}", mode="eval").body
        except (SyntaxError, ValueError):
            continue
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            break
        return {str(keyword.arg): _value(keyword.value, text) for keyword in call.keywords}, end
    raise _malformed(text)


def _value(node: ast.expr, text: str) -> Any:
    """Return the value of a literal. A bare name is a string, except `true`, `false` and `none` in any case."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise invalid(f"reducers={text!r}", f"expected a number, list or name, got {ast.unparse(node)}") from error


def _malformed(text: str) -> InputError:
    return out_of_range("reducers", text, "a comma-separated list such as gtp,tcvit(order=3)")

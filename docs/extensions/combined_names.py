"""A Griffe extension: entries of docstrings that describe several names are shown as one entry per name."""

import re
from typing import Any

import griffe

# `    heads, width: of the model.` and its continuation lines, which are indented further.
_ENTRY = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+):(?P<text> .*(?:\n(?P=indent) +\S.*)*)$", re.MULTILINE
)


class CombinedNames(griffe.Extension):
    """Split `a, b: text` into `a: text` and `b: text`, which Griffe's Google parser reads as a name and a type."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object before it is parsed."""
        if obj.docstring:
            obj.docstring.value = _ENTRY.sub(_split, obj.docstring.value)


def _split(match: re.Match[str]) -> str:
    names = match["names"].split(", ")
    return "\n".join(f"{match['indent']}{name}:{match['text']}" for name in names)

"""A mapping from names to the tensors of a weight file, which are read one at a time."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tcvit_jax.convert.problems import shorten
from tcvit_jax.errors import cannot_read, first_line, out_of_range

Kind = Literal["safetensors", "npz", "torch", "checkpoint"]


class WeightFile(Mapping[str, Any]):
    """Mapping from names to the tensors of a file, which are read one at a time.

    Attributes:
        path: Path of the file; of tensors in several files, that of their index.
        files: Paths of the files that hold the tensors.
        kind: `"safetensors"`, `"npz"`, `"torch"`, or `"checkpoint"` for a directory.
        entry: Key of the tensors in a training checkpoint, or "".
        grid: Patch grid `(height, width)` of the position embeddings if the file records it, or None.
        meta: Metadata of the checkpoint that the file was exported from, as JSON text, or "".
        prefix: Prefix that `select` removed from the names, or "".
        outside: Names of tensors without this prefix, which are not in the mapping.
        ignored: Names of tensors that match each pattern of `select`, which are not in the mapping.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[str], Any],
        shape: Callable[[str], Sequence[int] | None],
        *,
        kind: Kind,
        entry: str = "",
        grid: tuple[int, int] | None = None,
        meta: str = "",
        files: Sequence[Path] = (),
    ) -> None:
        """Create the mapping without reading any tensor.

        Args:
            path: Path of the file.
            names: Names of the tensors.
            read: Function that returns the tensor of a name. Its exceptions become an `InputError` that names the file.
            shape: Function that returns the shape of a tensor without reading the tensor, as for `read`; None for a
                value that is not a tensor.
            kind: Kind of the file.
            entry: Key of the tensors in a training checkpoint, or "".
            grid: Patch grid of the position embeddings, or None.
            meta: Metadata of the checkpoint that the file was exported from, or "".
            files: Paths of the files that hold the tensors; by default `path`.

        Raises:
            InputError: A name occurs more than once.
        """
        self.files = tuple(files) or (path,)
        self.path, self.entry, self.grid, self.meta = path, entry, grid, meta
        self.kind: Kind = kind
        self._read, self._shape = read, shape
        self.prefix = ""
        self.outside: tuple[str, ...] = ()
        self.ignored: dict[str, tuple[str, ...]] = {}
        # The name in the file of each name of the mapping.
        self._names = {name: name for name in names}
        if len(self._names) < len(names):
            duplicate = next(name for name, count in Counter(names).items() if count > 1)
            raise cannot_read(path, f"duplicate tensor {duplicate!r}")

    def select(self, prefix: str, ignore: Sequence[str]) -> WeightFile:
        """Leave out tensors, in place.

        Args:
            prefix: Only tensors whose name starts with it stay, without it in their names.
            ignore: Shell patterns of names, with or without the prefix, of tensors to leave out.

        Returns:
            The mapping itself.

        Raises:
            InputError: No tensor has the prefix or matches a pattern, or `ignore` is a string.
        """
        if isinstance(ignore, str):
            raise out_of_range("ignore", ignore, "a sequence of patterns", f"use [{ignore!r}]")
        names = list(self._names)
        inside = [name for name in names if name.startswith(prefix)]
        if not inside:
            starts = sorted({re.split(r"(?<=[./])", name)[0] for name in names})
            raise out_of_range("prefix", prefix, "the start of a tensor name", f"names start with {shorten(starts)}")
        self._names = {name.removeprefix(prefix): name for name in inside if name != prefix}
        for pattern in ignore:
            matches = [
                name
                for name, original in self._names.items()
                if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(original, pattern)
            ]
            if not matches:
                hint = f"such as {shorten(sorted(self._names))}"
                raise out_of_range("ignore", pattern, "a pattern of tensor names", hint)
            self.ignored[pattern] = tuple(self._names.pop(name) for name in matches)
        self.prefix, self.outside = prefix, tuple(name for name in names if not name.startswith(prefix))
        return self

    def __getitem__(self, name: str) -> Any:
        return self._call(self._read, name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor without reading the tensor, or None for a value that is not a tensor."""
        shape = self._call(self._shape, name)
        return None if shape is None else tuple(shape)

    def _call(self, function: Callable[[str], Any], name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        try:
            return function(self._names[name])
        except MemoryError:
            raise
        except Exception as error:  # readers raise many types for a damaged file
            raise cannot_read(self.path, f"cannot read {name!r}: {first_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

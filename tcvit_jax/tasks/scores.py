"""Values of metrics by example, and confidence intervals of paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np

# The 97.5 % quantile of the standard normal distribution, for 95 % confidence intervals.
Z95 = 1.959964

_Hex = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2})+$")]


class _MetricJson(TypedDict):
    dtype: Annotated[str, msgspec.Meta(pattern="^(bool|float32)$")]
    rows: list[_Hex]


class ScoresJson(TypedDict):
    """The form of `Scores.to_json`."""

    examples: Annotated[int, msgspec.Meta(ge=1)]
    metrics: dict[str, _MetricJson]
    nonfinite: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Scores:
    """The values of the metrics of a task for each example.

    Attributes:
        metrics: `[weights, examples]` bool or float32 by metric. The first metric is the one that is compared.
        nonfinite: The number of examples with an output that is NaN or infinite, for any of the weights.
    """

    metrics: Mapping[str, np.ndarray]
    nonfinite: int = 0

    @property
    def primary(self) -> np.ndarray:
        """The values of the first metric."""
        return next(iter(self.metrics.values()))

    @property
    def examples(self) -> int:
        """The number of examples."""
        return self.primary.shape[1]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Scores:
        """Return the scores of the result of `to_json`."""
        metrics = {
            name: np.stack([_unpack(text, metric["dtype"], values["examples"]) for text in metric["rows"]])
            for name, metric in values["metrics"].items()
        }
        return cls(metrics, values["nonfinite"])

    def to_json(self) -> dict[str, Any]:
        """Return the scores as plain values: a hexadecimal string of bits or of little-endian float32 for each row."""
        metrics = {
            name: {"dtype": str(rows.dtype), "rows": [_pack(row) for row in rows]}
            for name, rows in self.metrics.items()
        }
        return {"examples": self.examples, "metrics": metrics, "nonfinite": self.nonfinite}

    def __str__(self) -> str:
        return "  ".join(_describe(name, rows) for name, rows in self.metrics.items())


def count_nonfinite(is_finite: np.ndarray) -> int:
    """Return the number of examples that are not finite for any of the weights.

    Args:
        is_finite: `[weights, examples]` bool.
    """
    return int((~is_finite.all(0)).sum())


def find_scores_problem(values: Mapping[str, Any], metrics: Sequence[str], weights: int, examples: int) -> str | None:
    """Return what is wrong with stored scores of some metrics, of `weights` rows and `examples` columns, or None."""
    sizes = {"bool": 2 * -(-examples // 8), "float32": 8 * examples}
    is_complete = values["examples"] == examples and list(values["metrics"]) == list(metrics)
    if not is_complete or any(
        [len(row) for row in metric["rows"]] != weights * [sizes[metric["dtype"]]]
        for metric in values["metrics"].values()
    ):
        return f"expected {', '.join(metrics)} of {weights} weights on {examples} examples"
    floats = [metric["rows"] for metric in values["metrics"].values() if metric["dtype"] == "float32"]
    if not all(np.isfinite(_unpack(row, "float32", examples)).all() for rows in floats for row in rows):
        return "expected finite values"
    return None


def _pack(row: np.ndarray) -> str:
    return (np.packbits(row) if row.dtype == bool else row.astype("<f4")).tobytes().hex()


def _unpack(text: str, dtype: str, examples: int) -> np.ndarray:
    content = bytes.fromhex(text)
    if dtype == "bool":
        return np.unpackbits(np.frombuffer(content, np.uint8), count=examples).astype(bool)
    return np.frombuffer(content, "<f4").astype(np.float32)


def _describe(name: str, rows: np.ndarray) -> str:
    text = f"{name} {rows.mean(dtype=np.float64):.6f}"
    return f"{text} ({rows.sum()}/{rows.size})" if rows.dtype == bool and len(rows) == 1 else text


@dataclass(frozen=True)
class Difference:
    """The mean difference of a metric of two methods on the same examples, with a 95 % confidence interval.

    Attributes:
        mean: The mean difference.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(method: np.ndarray, reference: np.ndarray) -> Difference:
    """Return the mean difference of the values of two methods, with its normal confidence interval.

    The examples are the sample; each contributes its mean over weights.

    Args:
        method: `[weights, examples]` bool or float, the values of the method.
        reference: `[weights, examples]` bool or float, the values of the method that it is compared with.
    """
    differences = (method.astype(np.float64) - reference.astype(np.float64)).mean(0)
    mean = float(differences.mean())
    margin = Z95 * float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return Difference(mean, mean - margin, mean + margin)

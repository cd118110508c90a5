"""The wording of errors."""

from pathlib import Path

import numpy as np
import pytest

from tcvit_jax.errors import (
    InputError,
    as_integer,
    cannot_read,
    conflicts,
    first_line,
    invalid,
    out_of_range,
    printable,
    renamed,
    requires,
    unknown,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (out_of_range("alpha", -1, "in [0, 1]"), "alpha=-1: must be in [0, 1]"),
        (out_of_range("mesh.model", 3, "a divisor of 8", "use 2"), "mesh.model=3: must be a divisor of 8; use 2"),
        (out_of_range("batch_size", "big", "an integer"), "batch_size='big': must be an integer"),
        (renamed("config key", "shape", "schedule_family"), "unknown config key 'shape': renamed to 'schedule_family'"),
        (requires("schedule_family='stages'", "gmacs > 0"), "schedule_family='stages' requires gmacs > 0"),
        (
            requires("new_head=True", "weights", "set --config.weights=PATH"),
            "new_head=True requires weights: set --config.weights=PATH",
        ),
        (conflicts("schedule=8", "gmacs=3.4"), "schedule=8 cannot be combined with gmacs=3.4"),
        (
            conflicts("schedule=8", "gmacs=3.4", "set one of them"),
            "schedule=8 cannot be combined with gmacs=3.4: set one of them",
        ),
        (cannot_read("ckpt", "not found"), "ckpt: not found"),
        (
            cannot_read(Path("runs") / "ckpt", "not found", "expected a checkpoint directory"),
            "runs/ckpt: not found; expected a checkpoint directory",
        ),
        (invalid("metrics.jsonl line 3", "expected a JSON object"), "metrics.jsonl line 3: expected a JSON object"),
        (invalid("images", "no files", "add images"), "images: no files; add images"),
    ],
)
def test_errors_have_the_form_of_their_kind(error, message):
    assert type(error) is InputError
    assert str(error) == message


def test_unknown_suggests_the_nearest_name():
    assert str(unknown("model", "deit_smol", ["deit_small", "deit_base"])) == (
        "unknown model 'deit_smol': did you mean 'deit_small'?"
    )


def test_unknown_lists_all_names_if_none_is_near():
    assert str(unknown("model", "resnet", ["b", "a"])) == "unknown model 'resnet': must be one of a, b"


def test_unknown_accepts_names_that_are_not_strings_and_options_of_any_iterable():
    assert str(unknown("order", 12, iter(["1", "2"]))) == "unknown order 12: did you mean '2'?"
    assert str(unknown("order", None, {"b": 1, "a": 2})) == "unknown order None: must be one of a, b"


def test_as_integer_checks_the_type():
    value = as_integer("order", np.int64(3))
    assert value == 3 and type(value) is int
    for value in (3.0, True, "3", None):
        with pytest.raises(InputError, match=f"order={value!r}: must be an integer"):
            as_integer("order", value)


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_messages_are_one_line_and_escape_control_characters():
    assert str(InputError("name 'a\nb\x1b[31m\u2028' é")) == r"name 'a\nb\x1b[31m\u2028' é"


def test_printable_escapes_lone_surrogates_and_keeps_other_text():
    assert printable("a\udc80b\x7f\x85\t") == r"a\udc80b\x7f\x85\t"
    assert printable("Größe 3 é 猫") == "Größe 3 é 猫"


def test_first_line_skips_empty_lines():
    assert first_line(ValueError("\n  first \nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(RuntimeError(" \n")) == "RuntimeError"

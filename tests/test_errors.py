"""The wording of errors."""

import numpy as np
import pytest

from tcvit_jax.errors import InputError, as_integer, unknown


def test_the_nearest_name_is_offered():
    assert str(unknown("model", "deit_smol", ["deit_small", "deit_base"])) == (
        "unknown model 'deit_smol': did you mean 'deit_small'?"
    )


def test_all_names_are_listed_when_none_is_near():
    assert str(unknown("model", "resnet", ["b", "a"])) == "unknown model 'resnet': must be one of a, b"


def test_whole_numbers_are_told_by_type():
    assert as_integer("order", np.int64(3)) == 3
    for value in (3.0, True, "3", None):
        with pytest.raises(InputError, match=f"order={value!r}: must be an integer"):
            as_integer("order", value)


def test_it_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_a_message_is_one_line_whatever_it_quotes():
    assert str(InputError("name 'a\nb\x1b[31m\u2028' é")) == r"name 'a\nb\x1b[31m\u2028' é"

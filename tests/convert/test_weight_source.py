"""The number of classes of a weight file."""

import numpy as np
from safetensors.numpy import save_file

from tcvit_jax.convert.files import read_file
from tcvit_jax.convert.weight_source import count_classes
from tests.convert import cases


def count(path, tensors):
    model = cases.model("deit")
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return count_classes(read_file(path), model)


def test_classes_are_counted_by_the_classifier(tmp_path):
    tensors, expected = cases.weights(), cases.model("deit").num_classes
    assert count(tmp_path / "a", tensors) == expected
    assert count(tmp_path / "b", {f"module.model.{name}": value for name, value in tensors.items()}) == expected
    assert count(tmp_path / "c", cases.augreg(tensors, 3)) == expected
    assert count(tmp_path / "d", {name: value for name, value in tensors.items() if "head" not in name}) is None
    assert count(tmp_path / "e", {"proj": np.zeros((12, 5), np.float32), "conv1.weight": tensors["cls_token"]}) == 5

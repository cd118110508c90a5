"""`--max-pairs` of the tasks that can read pairs."""

import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax.data import open_source
from tcvit_jax.tasks.dense import Dense
from tcvit_jax.tasks.retrieval import Retrieval

TASKS = [Retrieval, lambda **fields: Dense("module:NAME", "weights", **fields)]


@pytest.fixture
def pairs(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for index in range(3):
            Image.fromarray(np.full((2, 2, 3), index, np.uint8)).save(tmp_path / folder / f"{index}.png")
    return open_source("pairs", "val", str(tmp_path))


@pytest.mark.parametrize("task", TASKS, ids=["retrieval", "dense"])
def test_first_pairs_are_read(pairs, task):
    assert [len(task(max_pairs=count).select(pairs)) for count in (0, 2, 3)] == [6, 4, 6]
    levels = [int(np.asarray(task(max_pairs=2).select(pairs)[index]["image"]).max()) for index in range(4)]
    assert levels == [0, 1, 0, 1]


@pytest.mark.parametrize("task", TASKS, ids=["retrieval", "dense"])
def test_negative_numbers_and_sources_without_pairs_are_errors(task):
    with pytest.raises(tc.InputError, match="--max-pairs=-1: must be >= 0; 0 reads all pairs"):
        task(max_pairs=-1)
    with pytest.raises(tc.InputError, match="requires pairs of images: set --config.data.name=pairs"):
        task(max_pairs=2).select(open_source("digits", "val"))


def test_dense_task_reads_other_sources():
    source = open_source("digits", "val")
    assert TASKS[1]().select(source) is source

import pytest

from tcvit_jax import InputError
from tcvit_jax.benchmark.store import Store


def fail():
    raise AssertionError("the measurement was repeated")


def test_measurement_is_made_once_and_stored(tmp_path):
    store = Store(tmp_path, {"batch": 2})
    assert store.get("one", lambda: {"x": 0.1}) == {"x": 0.1}
    assert store.get("one", fail) == {"x": 0.1}
    assert Store(tmp_path, {"batch": 2}).get("one", fail) == {"x": 0.1}


def test_only_the_incomplete_last_measurement_is_repeated(tmp_path):
    store = Store(tmp_path, {})
    for name in ("one", "two"):
        store.get(name, lambda name=name: {"x": name})
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text()[:-9])
    resumed = Store(tmp_path, {})
    assert resumed.get("one", fail) == {"x": "one"}
    assert resumed.get("two", lambda: {"x": "new"}) == {"x": "new"}
    assert Store(tmp_path, {}).get("two", fail) == {"x": "new"}


def test_directory_of_another_benchmark_is_an_error(tmp_path):
    Store(tmp_path, {"batch": 2}).get("one", dict)
    with pytest.raises(InputError, match=r"holds a run with batch=2, not 3; set --out=PATH to another directory"):
        Store(tmp_path, {"batch": 3})


def test_damaged_measurement_is_an_error(tmp_path):
    Store(tmp_path, {}).get("one", lambda: {"x": "fast"})
    with pytest.raises(
        InputError, match=r"metrics.jsonl line 1: values: expected `float`, got `str` - at|line 1: values: \["
    ):
        Store(tmp_path, {}).get("one", fail, dict[str, float])
    with pytest.raises(InputError, match="metrics.jsonl line 1: too fast; remove the line to measure it again"):
        Store(tmp_path, {}).get("one", fail, check=lambda values: "too fast")
    for line in (
        '{"step": 0, "unit": 5, "values": {}}',
        '{"step": 0, "unit": "one"}',
        '{"step": 0, "unit": "one", "values": []}',
    ):
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
        with pytest.raises(InputError, match="metrics.jsonl line 1: expected a JSON object with a step, got .*: "):
            Store(tmp_path, {})


def test_special_file_in_place_of_the_results_is_an_error(tmp_path):
    (tmp_path / "results.md").mkdir()
    with pytest.raises(InputError, match="results.md: expected a file, got a directory"):
        Store(tmp_path, {})

import pytest

from tcvit_jax import InputError
from tcvit_jax.benchmark.store import Store


def never():
    raise AssertionError("measured again")


def test_a_unit_is_measured_once_and_kept(tmp_path):
    store = Store(tmp_path, {"batch": 2})
    assert store.get("one", lambda: {"x": 0.1}) == {"x": 0.1}
    assert store.get("one", never) == {"x": 0.1}
    assert Store(tmp_path, {"batch": 2}).get("one", never) == {"x": 0.1}


def test_a_line_that_a_kill_cut_short_is_measured_again_and_the_others_are_not(tmp_path):
    store = Store(tmp_path, {})
    for name in ("one", "two"):
        store.get(name, lambda name=name: {"of": name})
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text()[:-9])
    again = Store(tmp_path, {})
    assert again.get("one", never) == {"of": "one"}
    assert again.get("two", lambda: {"of": "again"}) == {"of": "again"}
    assert Store(tmp_path, {}).get("two", never) == {"of": "again"}


def test_another_benchmark_in_the_directory_is_refused(tmp_path):
    Store(tmp_path, {"batch": 2}).get("one", dict)
    with pytest.raises(InputError, match=r"holds a run with batch=2, not 3; set --out=PATH to another directory"):
        Store(tmp_path, {"batch": 3})

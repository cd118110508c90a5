"""Former keys in override strings, files and saved configurations: the error names the new key."""

import pytest

import tcvit_jax as tc
from tcvit_jax import config
from tcvit_jax.config.configuration import DEFAULTS, RENAMED_KEYS, unflatten

RENAMED = [
    ("shape", "stages", "schedule_family"),
    ("warmdown.start_epoch", 10.0, "reduction_warmup.start_epoch"),
    ("warmdown.epochs", 100.0, "reduction_warmup.epochs"),
    ("warmdown.stages", 4, "reduction_warmup.stages"),
    ("reducer.renormalise", True, "reducer.renormalize"),
]
TCVIT = {"reducer.name": "tcvit", "schedule": 4}


def test_every_renamed_key_has_a_case():
    former = [key for key, _, _ in RENAMED]
    assert {key if key in RENAMED_KEYS else key.partition(".")[0] for key in former} == set(RENAMED_KEYS)


@pytest.mark.parametrize(("key", "value", "new"), RENAMED)
def test_renamed_key_in_an_override_names_the_new_key(key, value, new):
    with pytest.raises(tc.InputError) as error:
        config.load("configs/digits_tcvit.py", [f"--config.{key}={value}"])
    assert str(error.value) == f"unknown config key {key!r}: renamed to {new!r}"
    with pytest.raises(tc.InputError, match=f"unknown config key {key!r}: renamed to {new!r}"):
        config.Config().updated({**TCVIT, key: value})


def test_renamed_section_names_the_new_section():
    with pytest.raises(tc.InputError, match="^unknown config key 'warmdown': renamed to 'reduction_warmup'$"):
        config.load("configs/digits_tcvit.py", ["--config.warmdown=3"])


@pytest.mark.parametrize(("key", "value", "new"), RENAMED)
def test_renamed_key_in_a_file_names_the_new_key(tmp_path, key, value, new):
    lines = [f"c.update({unflatten({key: value})!r})", "return c"]
    text = (
        "from tcvit_jax import config\ndef get_config():\n    c = config.default()\n    " + "\n    ".join(lines) + "\n"
    )
    (tmp_path / "former.py").write_text(text)
    with pytest.raises(tc.InputError) as error:
        config.load(tmp_path / "former.py")
    assert str(error.value) == f"unknown config key {key!r}: renamed to {new!r}"


@pytest.mark.parametrize(("key", "value", "new"), RENAMED)
def test_renamed_key_in_a_saved_configuration_names_the_new_key(key, value, new):
    with pytest.raises(tc.InputError) as error:
        config.restore(unflatten({**TCVIT, key: value}), "0.0.9")
    assert str(error.value) == (
        "saved configuration: written by tcvit_jax 0.0.9, not valid in this version; "
        f"unknown config key {key!r}: renamed to {new!r}"
    )


def test_new_keys_exist():
    tcvit = config.Config().updated(TCVIT)
    assert {new for _, _, new in RENAMED} <= DEFAULTS.keys() | tcvit.values().keys()

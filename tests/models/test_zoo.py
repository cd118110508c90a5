"""Registry of models: lookup of names, and comparison with timm's metadata."""

import json
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.models import zoo, zoo_entries

# Metadata of timm 1.0.31 by model name.
FACTS = json.loads((Path(__file__).parent.parent / "golden" / "timm_zoo.json").read_text())


def test_list_models_matches_pattern():
    names = tc.list_models()
    assert names == sorted(set(names))
    assert {name.partition(".")[0] for name in zoo.ZOO} == set(names)
    assert tc.list_models("deit_small*") == ["deit_small_distilled_patch16_224", "deit_small_patch16_224"]
    assert tc.list_models("lvvit*") == ["lvvit_l", "lvvit_m", "lvvit_s", "lvvit_t"]
    assert tc.list_models("*.mae") == ["vit_base_patch16_224.mae", "vit_large_patch16_224.mae"]
    assert tc.list_models(pretrained=True) == sorted(zoo.ZOO)


def test_name_without_tag_refers_to_first_entry():
    assert zoo.full_name("vit_base_patch16_224") == "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert zoo.full_name("vit_base_patch16_224.mae") == "vit_base_patch16_224.mae"
    assert zoo.get_entry("vit_base_patch16_224").preprocessing.mean == (0.5, 0.5, 0.5)
    assert models.preprocessing("vit_base_patch16_224.mae").mean == (0.485, 0.456, 0.406)
    assert tc.create_model("vit_base_patch16_224.mae").num_classes == 0
    with pytest.raises(
        tc.InputError, match=r"unknown model 'vit_base_patch16_224.ame': did you mean 'vit_base_patch16_224.mae'"
    ):
        zoo.get_entry("vit_base_patch16_224.ame")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_parameter_count_equals_zoo_entry(name):
    model = tc.create_model(name)
    assert model.variant == name
    # All blocks have the same shapes, and tracing the initialization of forty takes seconds.
    one, two = (models.count_parameters(tc.create_model(name, depth=depth)) for depth in (1, 2))
    assert one + (model.depth - 1) * (two - one) == zoo.ZOO[name].parameters


@pytest.mark.parametrize("name", FACTS)
def test_zoo_entry_equals_timm_metadata(name):
    facts, entry = FACTS[name], zoo.get_entry(name)
    assert zoo.full_name(name).partition(".")[2] == facts["tag"]
    assert entry.parameters == facts["params"]
    preprocessing = entry.preprocessing
    assert [*preprocessing.mean] == facts["mean"]
    assert [*preprocessing.std] == facts["std"]
    assert preprocessing.crop_pct == facts["crop_pct"]
    assert preprocessing.interpolation == facts["interpolation"]
    assert preprocessing.crop_mode == facts.get("crop_mode", preprocessing.crop_mode)
    model = tc.create_model(name)
    assert [3, *model.img_size] == facts["input_size"]
    assert model.num_classes == facts["num_classes"]


@pytest.mark.parametrize(
    ("name", "millions"), [("lvvit_t", 8.53), ("lvvit_s", 26.15), ("lvvit_m", 55.83), ("lvvit_l", 150.47)]
)
def test_lvvit_parameter_counts_equal_published_values(name, millions):
    assert round(zoo.get_entry(name).parameters / 1e6, 2) == millions


def test_repository_names():
    assert zoo.repository("deit_small_patch16_224") == "timm/deit_small_patch16_224.fb_in1k"
    name_quickgelu = "vit_base_patch16_clip_quickgelu_224.openai"
    assert zoo.name_from_repository("timm/vit_base_patch16_clip_224.openai") == name_quickgelu
    for name in zoo.ZOO:
        assert zoo.name_from_repository(zoo.repository(name)) == name
    for name, facts in FACTS.items():
        assert zoo.repository(name) == facts["hf"]


def test_preprocessing_survives_json():
    from dataclasses import asdict

    for entry in zoo.ZOO.values():
        values = json.loads(json.dumps(asdict(entry.preprocessing)))
        assert zoo.Preprocessing.from_config(values) == entry.preprocessing


RANGE = "one number in [{}, 1] per channel"


@pytest.mark.parametrize(
    ("key", "value", "condition"),
    [
        *(
            (key, value, RANGE.format(low))
            for key, low in (("mean", 0), ("std", 0.001))
            for value in (None, "abc", "0.5", 0.5, [], ["0.5"], [float("nan")], [float("inf")], [True], [-0.1], [None])
        ),
        ("mean", [123.675, 116.28, 103.53], RANGE.format(0)),
        ("std", [0.2, 0.0, 0.2], RANGE.format(0.001)),
        ("std", [58.395, 57.12, 57.375], RANGE.format(0.001)),
        ("std", {"r": 0.5}, RANGE.format(0.001)),
        *(
            ("crop_pct", value, "in [0.1, 10]")
            for value in (0, -0.9, 0.01, 11, float("nan"), float("inf"), "0.9", None, True, [0.9])
        ),
    ],
)
def test_preprocessing_values_have_ranges(key, value, condition):
    from dataclasses import asdict

    for name, make in (
        (key, lambda: zoo.Preprocessing(**{key: value})),
        (f"preprocessing.{key}", lambda: zoo.Preprocessing.from_config({**asdict(zoo_entries.IMAGENET), key: value})),
    ):
        with pytest.raises(tc.InputError) as error:
            make()
        assert str(error.value) == f"{name}={value!r}: must be {condition}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: None,
            "preprocessing: expected a mapping with mean, std, crop_pct, interpolation, crop_mode, got None",
        ),
        (
            lambda v: [v],
            "preprocessing: expected a mapping with mean, std, crop_pct, interpolation, crop_mode, got a list",
        ),
        *(
            (lambda v, key=key: {name: v[name] for name in v if name != key}, f"preprocessing.{key}: not found")
            for key in ("mean", "std", "crop_pct", "interpolation", "crop_mode")
        ),
        (lambda v: {**v, "stdd": 1}, "unknown preprocessing key 'stdd': did you mean 'std'?"),
        (
            lambda v: {**v, "interpolation": "bicubics"},
            "unknown preprocessing.interpolation 'bicubics': did you mean 'bicubic'?",
        ),
        (
            lambda v: {**v, "interpolation": ["bicubic"]},
            "unknown preprocessing.interpolation ['bicubic']: did you mean",
        ),
        (lambda v: {**v, "crop_mode": 1}, "unknown preprocessing.crop_mode 1: must be one of center, squash"),
    ],
)
def test_preprocessing_of_a_file_has_all_keys_and_no_others(change, message):
    from dataclasses import asdict

    with pytest.raises(tc.InputError) as error:
        zoo.Preprocessing.from_config(change(asdict(zoo_entries.IMAGENET)))
    assert str(error.value).startswith(message)


def test_preprocessing_of_an_earlier_version_has_no_resize():
    from dataclasses import asdict, replace

    values = asdict(zoo_entries.IMAGENET)
    former = {key: value for key, value in values.items() if key not in ("resize", "crop_rounding")}
    assert zoo.Preprocessing.from_config(former) == zoo_entries.IMAGENET
    assert zoo.Preprocessing.from_config({**values, "resize": 256}).resize == 256
    for value in (0, 256.0, True, "256"):
        with pytest.raises(tc.InputError, match="preprocessing.resize=.*: must be None or an integer"):
            zoo.Preprocessing.from_config({**values, "resize": value})
    with pytest.raises(tc.InputError, match="unknown crop_rounding 'up'"):
        replace(zoo_entries.IMAGENET, crop_rounding="up")


def test_preprocessing_has_the_options_of_the_pipeline_and_is_hashable():
    from tcvit_jax.data import transforms
    from tcvit_jax.models import image_preprocessing

    for name in ("CROP_MODES", "CROP_ROUNDINGS", "INTERPOLATIONS"):
        assert set(getattr(image_preprocessing, name)) == set(getattr(transforms, name))
    assert hash(zoo.Preprocessing([0, 1], [1, 0.5])) == hash(zoo.Preprocessing((0.0, 1.0), (1.0, 0.5)))

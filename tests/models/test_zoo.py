"""Registry of models: lookup of names, and comparison with timm's metadata."""

import json
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.models import zoo

# Metadata of timm 1.0.31 by model name.
FACTS = json.loads((Path(__file__).parent.parent / "golden" / "timm_zoo.json").read_text())
# Attention pooling is not supported.
UNSUPPORTED = {"vit_base_patch16_siglip_224"}


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
    assert models.count_parameters(model) == zoo.ZOO[name].parameters
    assert model.variant == name


@pytest.mark.parametrize("name", [name for name in FACTS if name not in UNSUPPORTED])
def test_zoo_entry_equals_timm_metadata(name):
    facts, entry = FACTS[name], zoo.get_entry(name)
    assert zoo.full_name(name).partition(".")[2] == facts["tag"]
    assert entry.parameters == facts["params"]
    preprocessing = entry.preprocessing
    assert [*preprocessing.mean] == facts["mean"]
    assert [*preprocessing.std] == facts["std"]
    assert preprocessing.crop_pct == facts["crop_pct"]
    assert preprocessing.interpolation == facts["interpolation"]
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
        if name not in UNSUPPORTED:
            assert zoo.repository(name) == facts["hf"]


def test_preprocessing_survives_json():
    from dataclasses import asdict

    for entry in zoo.ZOO.values():
        values = json.loads(json.dumps(asdict(entry.preprocessing)))
        assert zoo.Preprocessing.from_config(values) == entry.preprocessing

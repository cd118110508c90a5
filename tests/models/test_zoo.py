"""The table of names against timm's own facts, and how names are looked up."""

import json
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.models import zoo

# What timm 1.0.31 says of published models, by their names.
FACTS = json.loads((Path(__file__).parent.parent / "golden" / "timm_zoo.json").read_text())
# Attention pooling is no part of any model here.
ABSENT = {"vit_base_patch16_siglip_224"}


def test_list_models_takes_a_pattern():
    names = tc.list_models()
    assert names == sorted(set(names))
    assert {name.partition(".")[0] for name in zoo.ZOO} == set(names)
    assert tc.list_models("deit_small*") == ["deit_small_distilled_patch16_224", "deit_small_patch16_224"]
    assert tc.list_models("lvvit*") == ["lvvit_l", "lvvit_m", "lvvit_s", "lvvit_t"]
    assert tc.list_models("*.mae") == ["vit_base_patch16_224.mae", "vit_large_patch16_224.mae"]
    assert tc.list_models(pretrained=True) == sorted(zoo.ZOO)


def test_a_name_without_a_tag_is_the_first_of_its_lines():
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
def test_every_model_has_as_many_parameters_as_its_line_says(name):
    """By shape alone."""
    model = tc.create_model(name)
    assert models.count_parameters(model) == zoo.ZOO[name].parameters
    assert model.variant == name


@pytest.mark.parametrize("name", [name for name in FACTS if name not in ABSENT])
def test_lines_are_timm_s_facts(name):
    facts, entry = FACTS[name], zoo.get_entry(name)
    assert zoo.full_name(name).partition(".")[2] == facts["tag"]
    assert entry.parameters == facts["params"]
    found = entry.preprocessing
    assert [*found.mean] == facts["mean"]
    assert [*found.std] == facts["std"]
    assert found.crop_pct == facts["crop_pct"]
    assert found.interpolation == facts["interpolation"]
    model = tc.create_model(name)
    assert [3, *model.img_size] == facts["input_size"]
    assert model.num_classes == facts["num_classes"]


@pytest.mark.parametrize(
    ("name", "millions"), [("lvvit_t", 8.53), ("lvvit_s", 26.15), ("lvvit_m", 55.83), ("lvvit_l", 150.47)]
)
def test_lvvit_has_the_sizes_that_its_authors_publish(name, millions):
    assert round(zoo.get_entry(name).parameters / 1e6, 2) == millions


def test_repositories_of_the_hub():
    assert zoo.repository("deit_small_patch16_224") == "timm/deit_small_patch16_224.fb_in1k"
    quick = "vit_base_patch16_clip_quickgelu_224.openai"
    assert zoo.name_from_repository("timm/vit_base_patch16_clip_224.openai") == quick
    for name in zoo.ZOO:
        assert zoo.name_from_repository(zoo.repository(name)) == name
    for name, facts in FACTS.items():
        if name not in ABSENT:
            assert zoo.repository(name) == facts["hf"]


def test_preprocessing_survives_json():
    from dataclasses import asdict

    for entry in zoo.ZOO.values():
        values = json.loads(json.dumps(asdict(entry.preprocessing)))
        assert zoo.Preprocessing.from_config(values) == entry.preprocessing

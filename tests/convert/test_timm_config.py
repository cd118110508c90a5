"""The configuration of a model of timm's hub."""

from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax.convert.timm_config import read_config
from tcvit_jax.models import ViT, zoo
from tcvit_jax.models.image_preprocessing import Preprocessing

IMAGENET = Preprocessing()
PATH = Path("config.json")
CONFIG = {
    "architecture": "deit_tiny_patch16_224", "num_classes": 1000, "num_features": 192, "global_pool": "token",
    "pretrained_cfg": {
        "tag": "fb_in1k", "custom_load": False, "input_size": [3, 224, 224], "fixed_input_size": True, "pool_size": None,
        "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center", "mean": list(IMAGENET.mean),
        "std": list(IMAGENET.std), "num_classes": 1000, "first_conv": "patch_embed.proj", "classifier": "head",
    },
}  # fmt: skip


def read(**changes):
    return read_config({**CONFIG, **changes}, PATH)


def test_published_configuration():
    overrides = {"img_size": (224, 224), "in_chans": 3, "num_classes": 1000}
    assert read() == ("deit_tiny_patch16_224.fb_in1k", overrides, IMAGENET, None)
    name, overrides, _, _ = read()
    assert tc.create_model(name, **overrides) == tc.create_model("deit_tiny_patch16_224.fb_in1k")


def test_constructor_arguments_override_the_architecture():
    arguments = {"img_size": 64, "num_classes": 3, "reg_tokens": 2, "global_pool": "avg", "drop_path_rate": 0.1}
    name, overrides, _, labels = read(
        model_args=arguments, num_classes=3, label_names=["a", "b", "c"], pretrained_cfg={"tag": "other"}
    )
    assert (name, labels) == ("deit_tiny_patch16_224", ["a", "b", "c"])
    model = tc.create_model(name, **overrides)
    assert (model.img_size, model.num_classes, model.reg_tokens, model.global_pool) == ((64, 64), 3, 2, "avg")
    assert read(label_names=["a"])[3] is None


def test_former_configuration_is_flat():
    config = {
        "architecture": "vit_tiny_patch16_224", "tag": "augreg_in21k", "num_classes": 5, "input_size": [1, 32, 48],
        "mean": [0.5], "std": [0.5], "labels": list("abcde"), "crop_mode": "squash", "interpolation": "bilinear",
    }  # fmt: skip
    name, overrides, preprocessing, labels = read_config(config, PATH)
    assert (name, labels) == ("vit_tiny_patch16_224.augreg_in21k", list("abcde"))
    assert overrides == {"img_size": (32, 48), "in_chans": 1, "num_classes": 5}
    assert preprocessing == Preprocessing((0.5,), (0.5,), 0.875, "bilinear", "squash")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet50"}, "architecture: unknown model 'resnet50'"),
        ({"pretrained_cfg": 3}, "pretrained_cfg: expected an object, got an int"),
        ({"model_args": []}, "model_args: expected an object, got a list"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "model_args: unknown argument 'norm_layer'"),
        ({"model_args": {"embed_dim": None}}, "model_args.embed_dim=None: must be of type int"),
        ({"num_classes": "many"}, "num_classes='many': must be an integer >= 0"),
        ({"model_args": {"img_size": [[1, 2], 3]}}, "model_args.img_size=[[1, 2], 3]: must be 2 integers"),
        ({"model_args": {"img_size": "x"}}, "model_args.img_size='x': must be an integer >= 0, or 2 integers"),
        ({"pretrained_cfg": {"tile_size": 8}}, "unknown field 'tile_size': "),
        ({"rescale": 8}, "unknown field 'rescale': "),
        ({"pretrained_cfg": {"label_offset": 1}}, "label_offset=1: must be 0"),
        ({"pretrained_cfg": {"input_size": [224, 224]}}, "input_size=[224, 224]: must be 3 integers"),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode='border': must be 'center' or 'squash'"),
        ({"pretrained_cfg": {"interpolation": "random"}}, "interpolation='random': must be 'bicubic' or 'bilinear'"),
        ({"pretrained_cfg": {"mean": 3}}, "mean=3: must be one number in [0, 1] per channel"),
    ],
)
def test_fields_that_cannot_be_honored_are_rejected(changes, message):
    with pytest.raises(tc.InputError) as error:
        read(**changes)
    assert str(error.value).startswith(f"config.json: {message}")


def test_missing_pooling_is_rejected_with_its_name():
    name, overrides, _, _ = read(model_args={"global_pool": ""})
    with pytest.raises(tc.InputError, match="global_pool ''"):
        tc.create_model(name, **overrides)


ODD = (
    None,
    True,
    False,
    0,
    -1,
    3,
    10**400,
    0.5,
    1e308,
    "",
    "text",
    [],
    [1],
    [None, None],
    [1, 2, 3],
    {},
    {"height": 3},
    {"a": {}},
    [[]],
)


@pytest.mark.parametrize(
    "name", [*CONFIG, *CONFIG["pretrained_cfg"], "label_names", "labels", "model_args", "label_offset"]
)
def test_any_value_gives_a_description_or_an_error(name):
    for value in ODD:
        changes = {name: value} if name in CONFIG else {name: value, "pretrained_cfg": {name: value}}
        try:
            model, overrides, _, _ = read(**changes)
            tc.create_model(model, **overrides)
        except tc.InputError:
            pass


@pytest.mark.parametrize("value", ODD)
def test_any_argument_gives_a_model_or_an_error(value):
    for name in zoo.override_names(ViT):
        try:
            model, overrides, _, _ = read(model_args={name: value})
            tc.create_model(model, **overrides)
        except tc.InputError:
            pass

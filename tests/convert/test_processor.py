"""Image processors of transformers as preprocessing, and back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax.convert.processor import read_processor, write_processor
from tcvit_jax.data import EvalTransform
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.ops.images import normalize

IMAGENET = Preprocessing()
INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PATH = Path("preprocessor_config.json")
MEAN_STD = {"image_mean": list(IMAGENET.mean), "image_std": list(IMAGENET.std)}
DINOV2 = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_processor_type": "BitImageProcessor", "resample": 3,
    "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256}, **MEAN_STD,
}  # fmt: skip


def floor(preprocessing, pct=1.0, **changes):
    return replace(preprocessing, crop_pct=pct, crop_rounding="floor", **changes)


SQUASH = {"crop_mode": "squash"}


@pytest.mark.parametrize(
    ("processor", "model_type", "expected", "size"),
    [
        (DINOV2, "dinov2", floor(IMAGENET, 0.875), 224),
        ({}, "vit", floor(INCEPTION, **SQUASH, interpolation="bilinear"), 224),
        ({"size": 384, "resample": 3}, "vit_mae", floor(INCEPTION, **SQUASH), 384),
        ({"do_resize": None, "size": None}, "deit", floor(INCEPTION, 0.875, **SQUASH), 224),
        ({"size": 256, "crop_size": 224, **MEAN_STD}, "deit", floor(IMAGENET, 0.875, **SQUASH), 224),
        ({}, "dinov2_with_registers", floor(OPENAI), 224),
        ({"size": 224, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"}, "clip", floor(OPENAI), 224),
        ({"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 400}}, "x",
         floor(OPENAI, 0.56, resize=None), 224),
        ({"image_processor_type": "SiglipImageProcessorPil", "size": {"height": 384, "width": 384}}, "siglip",
         floor(INCEPTION, **SQUASH), 384),
        ({"size": [32, 64], "resample": 2}, "siglip_vision_model", floor(INCEPTION, **SQUASH, interpolation="bilinear"),
         (32, 64)),
        ({"image_processor_type": "DINOv3ViTImageProcessorFast"}, "dinov3_vit",
         floor(IMAGENET, **SQUASH, interpolation="bilinear"), 224),
        ({**DINOV2, "do_normalize": False}, "dinov2",
         floor(Preprocessing((0, 0, 0), (1, 1, 1)), 0.875), 224),
        ({**DINOV2, "image_mean": 0.5, "image_std": 0.5}, "dinov2", floor(INCEPTION, 0.875), 224),
        ({**DINOV2, "crop_size": [224, 192]}, "dinov2", floor(IMAGENET, 0.875, resize=256), (224, 192)),
        ({**DINOV2, "do_reduce_labels": False, "note": None}, "dinov2", floor(IMAGENET, 0.875), 224),
    ],
)  # fmt: skip
def test_processors_are_read_and_written(processor, model_type, expected, size):
    size = size if isinstance(size, tuple) else (size, size)
    if expected.crop_pct == 0.56:
        expected = replace(expected, resize=400)  # floor(224 / 0.56) is 399
    actual = read_processor(processor, model_type, PATH)
    assert actual == (expected, size)
    assert read_processor(write_processor(*actual), "", PATH) == actual


def test_resized_lengths_are_exact():
    for length in range(224, 600):
        preprocessing, size = read_processor({**DINOV2, "size": {"shortest_edge": length}}, "dinov2", PATH)
        assert size == (224, 224)
        assert (preprocessing.resize or int(224 / preprocessing.crop_pct)) == length
        assert write_processor(preprocessing, size)["size"] == {"shortest_edge": length}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type='ConvNextImageProcessor': must be one of ViT"),
        ({"image_processor_type": 3}, "image_processor_type=3: must be one of ViT"),
        ({"image_processor_type": None}, "image_processor_type=None: must be set for model_type='swin'"),
        ({"resample": 1}, "resample=1: must be 2 (bilinear) or 3 (bicubic)"),
        ({"resample": True}, "resample=True: must be 2 (bilinear) or 3 (bicubic)"),
        ({"do_resize": False}, "do_resize=False: must be true"),
        ({"do_rescale": False}, "do_rescale=False: must be true"),
        ({"rescale_factor": 1}, "rescale_factor=1: must be 1/255"),
        ({"do_normalize": "yes"}, "do_normalize='yes': must be true or false"),
        ({"do_pad": True}, "do_pad=True: must be false"),
        ({"crop_pct": 0.9}, "crop_pct=0.9: must be null"),
        ({"use_square_size": True}, "use_square_size=True: must be false"),
        ({"new_field": 3}, "new_field=3: must be absent; its effect on the images is unknown"),
        ({"crop_mode": "random"}, "crop_mode='random': must be absent; its effect on the images is unknown"),
        ({"mean_subtract": [1, 2]}, "mean_subtract=[1, 2]: must be absent; its effect on the images is unknown"),
        ({"size": {"longest_edge": 224}}, "size={'longest_edge': 224}: must be a length, height and width, or shortest_edge"),
        ({"size": {"shortest_edge": 224, "longest_edge": 512}}, "size={"),
        ({"size": {"shortest_edge": -1}}, "size={"),
        ({"size": "big"}, "size='big': must be"),
        ({"size": {"height": 256, "width": 300}}, "size=(256, 300): must be square, or equal to crop_size=(224, 224)"),
        ({"crop_size": {"shortest_edge": 3}}, "crop_size={'shortest_edge': 3}: must be a length, or height and width"),
        ({"crop_size": 0}, "crop_size=0: must be a length, or height and width"),
        ({"do_center_crop": False}, "do_center_crop=False: must be True with size={'shortest_edge': 256}; sizes would differ"),
        ({"image_mean": [123, 116, 103]}, "image_mean=[123, 116, 103]: must be one number in [0, 1] per channel"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be_honored_are_rejected(changes, message):
    with pytest.raises(tc.InputError) as error:
        read_processor({**DINOV2, **changes}, "swin", PATH)
    assert str(error.value).startswith(f"preprocessor_config.json: {message}")


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
    "name", [*DINOV2, "crop_pct", "do_pad", "default_to_square", "feature_extractor_type", "other"]
)
def test_any_value_gives_preprocessing_or_an_error(name):
    for value in ODD:
        try:
            result = read_processor({**DINOV2, name: value}, "dinov2", PATH)
        except tc.InputError:
            continue
        assert read_processor(write_processor(*result), "", PATH) == result


def test_sizes_that_no_processor_gives_are_rejected():
    with pytest.raises(tc.InputError, match="requires crop_mode='squash', resize, or equal sides"):
        write_processor(IMAGENET, (224, 192))


LIVE = (
    ("ViT", {}), ("DeiT", {}), ("Bit", {"size": {"shortest_edge": 256}}), ("CLIP", {}), ("Siglip", {}), ("DINOv3ViT", {}),
    ("Bit", {"size": {"shortest_edge": 354}, "crop_size": {"height": 224, "width": 192}}),
    ("DeiT", {"size": {"height": 259, "width": 259}}), ("CLIP", {"size": {"shortest_edge": 227}, "resample": 2}),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), LIVE)
def test_images_equal_those_of_transformers(kind, options):
    """Differences are in levels of 255; torchvision, which the default image processors use, resizes differently."""
    transformers = pytest.importorskip("transformers", reason="requires transformers")
    pytest.importorskip("torchvision", reason="requires torchvision")
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((401, 283), Image.Resampling.BICUBIC)
    for suffix, limit in (("Pil", 1e-3), ("", 2.01 if kind != "DINOv3ViT" else 1)):
        make = getattr(transformers, f"{kind}ImageProcessor{suffix}", None)
        if make is None:
            continue
        processor = make(**options)
        preprocessing, size = read_processor(json.loads(processor.to_json_string()), "", PATH)
        expected = np.moveaxis(np.asarray(processor(photo, return_tensors="np")["pixel_values"])[0], 0, -1)
        pixels = EvalTransform(size, 3, *preprocessing.geometry)(photo)[None]
        actual = np.asarray(normalize(pixels, preprocessing.mean, preprocessing.std))[0]
        assert actual.shape == expected.shape
        assert np.abs((actual - expected) * preprocessing.std).max() * 255 <= limit

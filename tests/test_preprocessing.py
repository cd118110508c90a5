"""`tc.preprocess` against the evaluation pipeline, bit for bit."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax import checkpoint, models
from tcvit_jax.data import EvalTransform, eval_batches, open_source
from tcvit_jax.evaluation import compute_logits
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.ops.images import normalize
from tests.models.builders import small, variables_of

RGB = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bicubic", "center")
GRAY = Preprocessing((0.3,), (0.2,), 1.0, "bilinear", "center")
VARIANTS = {
    "center": (3, RGB),
    "squash": (3, replace(RGB, crop_mode="squash", interpolation="bilinear")),
    "padded": (3, replace(RGB, crop_pct=1.3)),
    "gray": (1, GRAY),
    "gray squash": (1, replace(GRAY, crop_mode="squash", crop_pct=0.9)),
}


def photo(mode="RGB", size=(61, 37)):
    """Return an image with smooth and sharp parts, of (width, height)."""
    rng = np.random.default_rng(len(mode))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2] = np.linspace(0, 255, size[0])[None, :, None]
    image = Image.fromarray(pixels)
    if mode == "LA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
        return image.convert("LA")
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return image if mode == "RGBA" else image.convert(mode)


def write_photos(folder: Path):
    """Write files of every kind, in the order of their names, and return their paths."""
    folder.mkdir(parents=True)
    for mode in ("RGB", "L", "P", "RGBA", "LA", "1"):
        photo(mode).save(folder / f"{mode}.png")
    photo("P").save(folder / "transparent palette.png", transparency=b"\x00\x80\xff")
    photo("RGB").save(folder / "transparent color.png", transparency=(0, 0, 0))
    photo("L").save(folder / "transparent gray.png", transparency=0)
    photo("CMYK", (40, 80)).save(folder / "cmyk.jpg")
    photo("RGB", (23, 90)).save(folder / "tall.jpg", quality=90)
    photo("RGB", (24, 32)).save(folder / "exact.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    photo().save(folder / "rotated.jpg", exif=exif)
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    return root, write_photos(root / "val" / "class")


@cache
def model_of(in_chans):
    return small(depth=1, img_size=(24, 32), in_chans=in_chans)


def meta_of(name):
    in_chans, preprocessing = VARIANTS[name]
    # As in a checkpoint.
    values = {"model": models.to_config(model_of(in_chans)), "preprocessing": asdict(preprocessing), "classes": None}
    return json.loads(json.dumps(values))


def evaluation_batch(root, name, count):
    in_chans, each = VARIANTS[name]
    transform = EvalTransform((24, 32), in_chans, each.crop_pct, each.interpolation, each.crop_mode)
    (batch,) = eval_batches(open_source("folder", "val", str(root)), transform, batch_size=count)
    return batch["image"]


@pytest.mark.parametrize("name", VARIANTS)
def test_files_are_preprocessed_as_in_evaluation(photos, name):
    root, paths = photos
    pixels, preprocessing = evaluation_batch(root, name, len(paths)), VARIANTS[name][1]
    images = tc.preprocess(paths, meta_of(name))
    assert isinstance(images, jax.Array)
    assert images.dtype == jnp.float32
    assert images.shape == (len(paths), 24, 32, VARIANTS[name][0])
    assert len(np.unique(np.asarray(images), axis=0)) > 8
    np.testing.assert_array_equal(images, normalize(pixels, preprocessing.mean, preprocessing.std))
    in_program = jax.jit(lambda x: normalize(x, preprocessing.mean, preprocessing.std))(pixels)
    np.testing.assert_array_equal(images, in_program)


def test_logits_are_those_of_the_evaluation(photos):
    root, paths = photos
    model, variables = model_of(3), variables_of(model_of(3))
    batch = {"image": evaluation_batch(root, "center", len(paths))}
    expected = jax.jit(lambda v, b: compute_logits(model, RGB, v, b))(variables, batch)
    actual = jax.jit(model.apply)(variables, tc.preprocess(paths, meta_of("center")))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["center", "gray"])
def test_a_path_an_image_and_its_array_give_the_same(photos, name):
    root, paths = photos
    meta, from_paths = meta_of(name), tc.preprocess(paths, meta_of(name))
    opened = [Image.open(path) for path in paths]
    np.testing.assert_array_equal(tc.preprocess(opened, meta), from_paths)
    np.testing.assert_array_equal(tc.preprocess([Path(path) for path in paths], meta), from_paths)
    decoded = open_source("folder", "val", str(root))
    arrays = [np.asarray(decoded[index]["image"]) for index in range(len(paths))]
    np.testing.assert_array_equal(tc.preprocess(arrays, meta), from_paths)
    np.testing.assert_array_equal(tc.preprocess(tuple(map(jnp.asarray, arrays)), meta), from_paths)
    single = tc.preprocess(paths[0], meta)
    assert single.shape == (1, *from_paths.shape[1:])
    np.testing.assert_array_equal(single[0], from_paths[0])
    # The images of the caller are unchanged.
    transparent = opened[paths.index(str(root / "val" / "class" / "transparent color.png"))]
    assert transparent.info["transparency"] == (0, 0, 0)


@pytest.mark.parametrize("name", ["center", "gray"])
def test_arrays_of_every_layout(name):
    meta, rng = meta_of(name), np.random.default_rng(0)
    color = rng.integers(0, 256, (3, 40, 50, 3), np.uint8)
    expected = tc.preprocess([Image.fromarray(each) for each in color], meta)
    np.testing.assert_array_equal(tc.preprocess(color, meta), expected)
    np.testing.assert_array_equal(tc.preprocess(color[0], meta), expected[:1])
    np.testing.assert_array_equal(tc.preprocess([color[:2], color[2]], meta), expected)
    np.testing.assert_array_equal(
        tc.preprocess(color[..., ::-1], meta), tc.preprocess(color[..., ::-1].copy(), meta)
    )  # fmt: skip
    alpha = np.concatenate([color, color[..., :1]], axis=-1)
    np.testing.assert_array_equal(tc.preprocess(alpha, meta), expected)
    gray = color[0, ..., 0]
    expected = tc.preprocess(Image.fromarray(gray), meta)
    for layout in (gray, gray[..., None], gray[None, ..., None]):
        np.testing.assert_array_equal(tc.preprocess(layout, meta), expected)


def test_an_empty_batch_is_empty():
    for images in ([], (), np.zeros((0, 40, 50, 3), np.uint8)):
        assert tc.preprocess(images, meta_of("gray")).shape == (0, 24, 32, 1)


def test_a_model_stands_for_the_preprocessing_of_its_published_weights():
    model, image = small(img_size=48), photo()
    expected = {"model": models.to_config(model), "preprocessing": asdict(models.preprocessing(model.variant))}
    np.testing.assert_array_equal(tc.preprocess(image, model), tc.preprocess(image, expected))
    with pytest.raises(tc.InputError, match=r"^mean=\(0.485, .*\): must be one value per channel; the model has in_ch"):
        tc.preprocess(image, model_of(1))


def test_the_metadata_of_a_checkpoint_are_accepted(tmp_path):
    variables = jax.tree.map(np.asarray, variables_of(model_of(3)))
    checkpoint.save(tmp_path / "ckpt", variables, meta_of("squash"))
    model, variables, meta = tc.load(tmp_path / "ckpt")
    images = tc.preprocess([photo(), photo("L", (9, 80))], meta)
    np.testing.assert_array_equal(images, tc.preprocess([photo(), photo("L", (9, 80))], meta_of("squash")))
    tc.check_variables(model, variables)
    model.check_images(images)


EXPECTED = "expected a path, a PIL image, a uint8 array or a sequence of them, got "
LAYOUTS = "expected uint8 [H, W], [H, W, C] or [B, H, W, C] with C of 1, 3 or 4, got "


class Tensor:
    shape, dtype = (2, 24, 24, 3), "uint8"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, f"images: {EXPECTED}None"),
        (3, f"images: {EXPECTED}an int"),
        (b"photo.jpg", f"images: {EXPECTED}a bytes"),
        (Tensor(), f"images: {EXPECTED}a tests.Tensor"),
        ([[0, 1], [2, 3]], f"images[0]: {EXPECTED}a list"),
        ([photo(), None], f"images[1]: {EXPECTED}None"),
        (
            np.zeros((4, 5, 3), np.float32),
            "images: expected uint8 values in 0..255, got float32 (4, 5, 3); normalized images need no preprocessing",
        ),
        (np.zeros((4, 5), np.int64), "images: expected uint8 values in 0..255, got int64 (4, 5)"),
        (np.zeros((4, 5), bool), "images: expected uint8 values in 0..255, got bool (4, 5)"),
        (np.zeros((4, 5), np.uint16), "images: expected uint8 values in 0..255, got uint16 (4, 5)"),
        (np.zeros((3, 4, 5), np.uint8), f"images: {LAYOUTS}uint8 (3, 4, 5); move the channels to the last axis"),
        (np.zeros((2, 3, 4, 5), np.uint8), f"images: {LAYOUTS}uint8 (2, 3, 4, 5); move the channels to the last axis"),
        (np.zeros((2, 4, 5, 2), np.uint8), f"images: {LAYOUTS}uint8 (2, 4, 5, 2)"),
        (np.zeros(5, np.uint8), f"images: {LAYOUTS}uint8 (5,)"),
        (np.zeros((0, 5, 3), np.uint8), "images: expected at least one pixel, got uint8 (0, 5, 3)"),
        (Image.new("RGB", (0, 5)), "images: expected at least one pixel, got 0 x 5"),
        (Image.new("I;16", (4, 5)), "images: expected at most 8 bits per channel, got mode I;16"),
        ([Image.new("F", (4, 5))], "images[0]: expected at most 8 bits per channel, got mode F"),
    ],
)
def test_other_images_are_one_line_errors(images, message):
    with pytest.raises(tc.InputError) as error:
        tc.preprocess(images, meta_of("center"))
    assert str(error.value) == message


def test_files_that_cannot_be_read_are_one_line_errors(tmp_path, monkeypatch):
    meta = meta_of("center")
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "deep.png")
    photo().save(tmp_path / "photo.jpg")
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image\n")
    for path, problem in {
        "deep.png": "cannot read image: expected at most 8 bits per channel, got mode I;16",
        "cut.jpg": "cannot read image: ",
        "text.jpg": "cannot read image: ",
        "none.jpg": "not found",
        ".": "expected an image, got a directory",
    }.items():
        with pytest.raises(tc.InputError) as error:
            tc.preprocess(tmp_path / path, meta)
        assert str(error.value).startswith(f"{tmp_path / path}: {problem}")
        assert "\n" not in str(error.value)
    with (
        Image.open(tmp_path / "cut.jpg") as opened,
        pytest.raises(tc.InputError, match=r"^images\[1\]: cannot read image: "),
    ):
        tc.preprocess([photo(), opened], meta)
    with pytest.raises(tc.InputError, match="^/dev/zero: expected an image, got a device$"):
        tc.preprocess("/dev/zero", meta)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tc.preprocess("~/photo.jpg", meta).shape == (1, 24, 32, 3)


def test_traced_arrays_are_a_one_line_error():
    with pytest.raises(
        tc.InputError, match="^images: expected an array, got a tracer; call tc.preprocess outside of jit"
    ):
        jax.jit(lambda x: tc.preprocess(x, meta_of("center")))(np.zeros((4, 5, 3), np.uint8))


HINT = "pass the third result of tc.load, or a model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: None, f"meta: expected the metadata of a checkpoint, got None; {HINT}"),
        (lambda meta: "ckpt", f"meta: expected the metadata of a checkpoint, got a str; {HINT}"),
        (lambda meta: {"params": {}}, f"meta: 'model' not found; {HINT}"),
        (
            lambda meta: {"model": meta["model"]},
            "meta: no preprocessing; load the model from a source with preprocessor_config.json",
        ),
        (
            lambda meta: {**meta, "model": []},
            "model: expected a mapping with name, overrides, reducer, removed, got a list",
        ),
        (lambda meta: {**meta, "model": {"name": "x"}}, "model.overrides: not found"),
        (
            lambda meta: {**meta, "model": {**meta["model"], "overrides": None}},
            "model.overrides: expected a mapping, got None",
        ),
        (
            lambda meta: {**meta, "model": {**meta["model"], "removed": 3}},
            "model.removed: expected a list of integers, got an int",
        ),
        (
            lambda meta: {**meta, "model": {**meta["model"], "depth": 3}},
            "unknown model key 'depth': must be one of name, overrides, reducer, removed",
        ),
        (
            lambda meta: {**meta, "preprocessing": {**meta["preprocessing"], "std": [0, 0, 0]}},
            "preprocessing.std=[0, 0, 0]: must be one number in [0.001, 1] per channel",
        ),
    ],
)
def test_other_metadata_are_one_line_errors(change, message):
    with pytest.raises(tc.InputError) as error:
        tc.preprocess(photo(), change(meta_of("center")))
    assert str(error.value) == message

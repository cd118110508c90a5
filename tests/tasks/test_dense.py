"""The dense task against a float64 reference, with real models and label maps."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.assembly import EvalData
from tcvit_jax.data import EvalTransform, open_source
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.sharding import data_mesh
from tcvit_jax.tasks.base import Subject
from tcvit_jax.tasks.dense import Dense, compare_areas, compare_classes
from tests.convert import cases
from tests.tasks import decoders

HERE = "tests.tasks.decoders"
MODEL = tc.create_model(
    "vit", img_size=8, patch_size=2, in_chans=3, embed_dim=16, depth=2, num_heads=2, num_classes=0
)  # fmt: skip
PREPROCESSING = Preprocessing((0.5,) * 3, (0.5,) * 3, crop_pct=1.0)


@given(st.integers(0, 99))
def test_areas_equal_a_reference(seed):
    values, target = np.random.default_rng(seed).random((2, 3, 4)).astype(np.float32)
    pairs = list(zip(values.ravel() > 0.5, target.ravel() > 0.5, strict=True))
    union = sum(a or b for a, b in pairs)
    iou, error = compare_areas(values, target)
    assert iou == (sum(a and b for a, b in pairs) / union if union else 1)
    np.testing.assert_allclose(error, np.abs(values.astype(np.float64) - target).mean())


def test_empty_areas_are_equal():
    assert compare_areas(np.zeros((2, 2)), np.full((2, 2), 0.5)) == (1.0, 0.5)
    assert compare_areas(np.ones((2, 2)), np.zeros((2, 2))) == (0.0, 1.0)


@given(st.integers(0, 99))
def test_classes_equal_a_reference(seed):
    rng = np.random.default_rng(seed)
    values, target = rng.integers(0, 4, (2, 5, 6))
    target[rng.random(target.shape) < 0.2] = 255
    pairs = [(a, b) for a, b in zip(values.ravel(), target.ravel(), strict=True) if b != 255]
    ious = []
    for label in range(4):
        union = sum(label in pair for pair in pairs)
        if union:
            ious.append(sum(pair == (label, label) for pair in pairs) / union)
    iou, error = compare_classes(values, target, 255)
    np.testing.assert_allclose([iou, error], [np.mean(ious), np.mean([a != b for a, b in pairs])])


def test_maps_without_a_labeled_pixel_are_equal():
    assert compare_classes(np.zeros((2, 2), int), np.full((2, 2), 255), 255) == (1.0, 0.0)


def test_every_class_of_the_dense_model_is_counted():
    values = np.full((2, 2), 255)
    assert compare_classes(values, values) == (1.0, 0.0)
    assert compare_classes(np.zeros((2, 2), int), values) == (0.0, 1.0)


def test_labels_of_other_decoders_are_errors(folder, variables):
    labels = folder / "more"
    shutil.copytree(folder / "maps", labels)
    pixels = np.full((8, 8), 255, np.uint8)
    pixels[3, 3] = 3
    Image.fromarray(pixels).save(labels / "a" / "4.png")
    task, dense = task_of(folder, 3, label_maps=str(labels)), subject_of(folder, MODEL, variables)
    with pytest.raises(tc.InputError, match="4.png: label 3: must be < 3, the number of classes, or 255"):
        task.reference(dense, data_mesh())
    assert task.settings["label_maps"] != task_of(folder, 3, label_maps=str(folder / "maps")).settings["label_maps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of nine images, a directory of label maps and two weight files."""
    root, rng = tmp_path_factory.mktemp("dense"), np.random.default_rng(0)
    for index in range(9):
        name = f"{'ab'[index % 2]}/{index}.png"
        for part, pixels in (("data/val", rng.integers(0, 256, (8, 8, 3))), ("maps", rng.integers(0, 3, (8, 8)))):
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    for channels in (1, 3):
        tensors = {"layer.kernel": rng.normal(size=(16, channels)), "layer.bias": np.zeros(channels)}
        save_file({k: v.astype(np.float32) for k, v in tensors.items()}, root / f"{channels}.safetensors")
    return root


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, cases.random_variables(MODEL))


def subject_of(folder, model, variables):
    data = EvalData(
        open_source("folder", "val", str(folder / "data")),
        EvalTransform(model.img_size, 3, *PREPROCESSING.geometry),
        8,
        0,
    )
    return Subject(model, [variables], PREPROCESSING, data, None, MODEL.grid)


def task_of(folder, channels=1, **fields):
    name = {1: "Pointwise", 3: "three_classes"}[channels]
    return Dense(decoder=f"{HERE}:{name}", decoder_weights=str(folder / f"{channels}.safetensors"), **fields)


def score(task, subject, dense):
    return task.scores(task.outputs(subject, data_mesh()), task.reference(dense, data_mesh()))


def expected_maps(task, subject):
    pixels = np.stack([np.asarray(subject.data.source[index]["image"]) for index in range(9)])
    images = (pixels / 255 - 0.5) / 0.5
    features = subject.model.apply(subject.variables[0], images.astype(np.float32), method="features", restore=True)
    layer = task._decoder.variables["params"]["layer"]
    return np.asarray(features, np.float64) @ layer["kernel"] + layer["bias"]


def test_maps_of_a_reduced_model_are_compared_with_the_dense_ones(folder, variables):
    task, dense = task_of(folder), subject_of(folder, MODEL, variables)
    reduced = replace(dense, model=tc.condense(MODEL, tc.ToMe(), 4))
    scores = score(task, reduced, dense)
    maps, target = (1 / (1 + np.exp(-expected_maps(task, each)[..., 0])) for each in (reduced, dense))
    for index in range(9):
        iou, error = compare_areas(maps[index], target[index])
        np.testing.assert_allclose(scores.metrics["iou"][0, index], iou, atol=1e-6)
        np.testing.assert_allclose(scores.metrics["error"][0, index], error, atol=1e-5)
    assert scores.metrics["error"].all()
    equal = score(task, dense, dense)
    assert equal.primary.all() and not equal.metrics["error"].any() and equal.nonfinite == 0


def test_classes_are_compared_with_label_maps(folder, variables):
    task, dense = task_of(folder, 3, label_maps=str(folder / "maps")), subject_of(folder, MODEL, variables)
    scores = score(task, dense, dense)
    classes = expected_maps(task, dense).argmax(-1)
    for index in range(9):
        labels = np.asarray(Image.open(folder / "maps" / dense.data.source.name(index)))
        # Of each patch of 2x2 pixels, the label is that of the pixel after its center.
        expected = compare_classes(classes[index], labels[1::2, 1::2], 255)
        np.testing.assert_allclose([scores.metrics[name][0, index] for name in ("iou", "error")], expected, atol=1e-6)


def test_features_of_a_smaller_grid_are_resized(folder, variables):
    task, dense = task_of(folder), subject_of(folder, MODEL, variables)
    small = tc.create_model("vit", img_size=4, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    positions = variables["params"]["pos_embed"][:, : 1 + 4]
    shrunk = {"params": {**variables["params"], "pos_embed": positions}}
    subject = subject_of(folder, small, shrunk)
    maps = task.outputs(subject, data_mesh()).values[0]
    images = np.stack([subject.data.transform(subject.data.source[index]["image"]) for index in range(9)])
    images = ((images / 255 - 0.5) / 0.5).astype(np.float32)
    features = np.asarray(small.apply(shrunk, images, method="features", restore=True), np.float64)
    layer = task._decoder.variables["params"]["layer"]
    coarse = (features @ np.asarray(layer["kernel"], np.float64) + layer["bias"])[..., 0]
    # Bilinear, from 2 to 4 cells: a quarter from the neighbor, and none beyond the border.
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    expected = 1 / (1 + np.exp(-np.einsum("ij,bjk,lk->bil", weights, coarse, weights)))
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert score(task, subject, dense).primary.shape == (1, 9)


def test_images_with_nonfinite_maps_are_counted(folder, variables):
    task = task_of(folder)
    task.__dict__["_decoder"] = replace(task._decoder, module=decoders.Nan(), variables={})
    dense = subject_of(folder, MODEL, variables)
    scores = score(task, dense, dense)
    assert 0 < scores.nonfinite < 9
    assert (scores.primary == 0).sum() == (scores.metrics["error"] == 1).sum() == scores.nonfinite


def damage_missing(path):
    path.unlink()


def damage_bytes(path):
    path.write_bytes(path.read_bytes()[:60])


def damage_mode(path):
    Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "a/0.png: label map not found; expected one for each image, or .*maps/0.png"),
        (damage_bytes, "a/0.png: cannot read label map: "),
        (damage_mode, "a/0.png: expected a gray or palette image of 8 bits, got mode RGB"),
    ],
)
def test_damaged_label_maps_are_errors(folder, variables, tmp_path, damage, message):
    import shutil

    maps = shutil.copytree(folder / "maps", tmp_path / "maps")
    damage(maps / "a/0.png")
    with pytest.raises(tc.InputError, match=message):
        task_of(folder, label_maps=str(maps)).reference(subject_of(folder, MODEL, variables), data_mesh())


def test_label_maps_may_be_in_one_directory_and_need_names(folder, variables, tmp_path):
    for path in (folder / "maps").rglob("*.png"):
        # The indices of a palette are labels.
        Image.open(path).convert("P").save(tmp_path / path.name)
    dense = subject_of(folder, MODEL, variables)
    flat, nested = (
        task_of(folder, 3, label_maps=str(each)).reference(dense, data_mesh()).values
        for each in (tmp_path, folder / "maps")
    )
    np.testing.assert_array_equal(flat, nested)
    digits = replace(dense, data=replace(dense.data, source=open_source("digits", "val")))
    with pytest.raises(
        tc.InputError, match="--label-maps requires images with file names: use --config.data.name=folder"
    ):
        task_of(folder, label_maps=str(tmp_path)).reference(digits, data_mesh())


def test_decoder_is_required():
    with pytest.raises(tc.InputError, match="--task dense requires --decoder: --decoder package.module:NAME"):
        Dense()
    with pytest.raises(tc.InputError, match="--task dense requires --decoder-weights"):
        Dense(decoder=f"{HERE}:Pointwise")

"""`tc.load`: one way in for checkpoints, directories of transformers and timm, and weight files."""

import json
import os
import struct
from functools import cache

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax import assembly, checkpoint, config, models
from tcvit_jax.convert.__main__ import main as convert
from tcvit_jax.models.image_preprocessing import Preprocessing
from tests import golden
from tests.convert import cases

PROCESSOR = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36}, "crop_size": 32}


@cache
def family(key):
    return next(case for case in golden.read("families")[0]["cases"] if case["key"] == key)


def tensors_of(key):
    case = family(key)
    return golden.state_dict(case["shapes"], case["seed"])


def write(path, key, tensors=None, processor=None, **changes):
    """Write a case as a directory of its library."""
    case = family(key)
    values = (
        {"architecture": case["model"], "model_args": case["overrides"]} if key.startswith("timm") else case["config"]
    )
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**values, **changes}))
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file(tensors_of(key) if tensors is None else tensors, path / "model.safetensors")
    return path


def output_of(model, variables, images):
    return np.asarray(jax.jit(model.apply)(variables, images))


@pytest.mark.parametrize(
    ("key", "result"), [("hf/vit", "logits"), ("hf/dinov3_gated", "pooled"), ("timm/eva02_small_patch14_224", "logits")]
)
def test_directory_gives_the_outputs_of_its_library(tmp_path, key, result):
    labels = {"id2label": {str(index): f"class {index}" for index in range(7)}} if key == "hf/vit" else {}
    path = write(tmp_path / "model", key, processor=None if key.startswith("timm") else PROCESSOR, **labels)
    size = 64 if key.startswith("hf/dino") else None
    model, variables, meta = tc.load(path, img_size=size)
    assert meta["model"] == models.to_config(model)
    assert meta["classes"] == (list(labels["id2label"].values()) if labels else None)
    assert meta["provenance"]["source"] == "model"
    assert models.from_config(meta["model"]) == model
    case = family(key)
    with jax.default_matmul_precision("highest"):
        actual = output_of(model, variables, golden.images(case["batch"], (64, 64), case["seed"]))
    np.testing.assert_allclose(actual, golden.read("families")[1][f"{key}/{result}"], rtol=0, atol=2e-5)


def test_converted_directory_is_the_loaded_one(tmp_path, capsys):
    path = write(tmp_path / "model", "hf/dinov2", processor=PROCESSOR)
    assert convert([str(path), "--out", str(tmp_path / "ckpt")]) == 0
    report = capsys.readouterr().out
    assert "model       vit, dinov2 of transformers" in report
    assert "parity      not compared with timm: the model has no name of timm" in report
    (model, variables, meta), (other, others, other_meta) = tc.load(path), tc.load(tmp_path / "ckpt")
    assert model == other
    assert model.img_size == (32, 32)  # that of the image processor
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert Preprocessing.from_config(meta["preprocessing"]) == Preprocessing.from_config(other_meta["preprocessing"])
    assert meta["provenance"]["sha256"] == other_meta["provenance"]["sha256"]
    images = tc.preprocess(np.zeros((40, 50, 3), np.uint8), meta)
    assert images.shape == (1, 32, 32, 3)
    assert convert([str(path), "--img-size", "64", "--out", str(tmp_path / "native")]) == 0
    (resized, variables, meta), (_, others, _) = (
        tc.load(each, img_size=(64, 48)) for each in (path, tmp_path / "native")
    )
    assert resized.grid == (4, 3)
    assert meta["preprocessing"]["resize"] is None
    # The checkpoint records how transformers resamples.
    jax.tree.map(np.testing.assert_array_equal, variables, others)


def test_half_precision_is_kept_on_request(tmp_path):
    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors_of("hf/vit").items()}
    path = write(tmp_path / "model", "hf/vit", tensors)
    for dtype in ("float32", "keep"):
        assert convert([str(path), "--dtype", dtype, "--out", str(tmp_path / dtype)]) == 0
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / each).rglob("*") if file.is_file())
        for each in ("float32", "keep")
    ]
    assert sizes[1] < 0.7 * sizes[0]
    (_, variables, meta), (_, others, _) = tc.load(tmp_path / "float32"), tc.load(tmp_path / "keep")
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert others["params"]["head"]["kernel"].dtype == np.float32
    assert meta["provenance"]["dtype"] == "bfloat16"


def test_patch_embedding_is_adapted_on_request(tmp_path, capsys):
    statistics = {"image_mean": list(Preprocessing().mean), "image_std": list(Preprocessing().std)}
    path = write(tmp_path / "model", "hf/vit", processor={**PROCESSOR, **statistics})
    flags = [str(path), "--in-chans", "1", "--patch-size", "8", "--out", str(tmp_path / "ckpt")]
    assert convert(flags) == 2
    assert "expected shape" in capsys.readouterr().err
    assert convert([*flags, "--adapt-patch-embed"]) == 0
    assert "averages over the channels of the source" in capsys.readouterr().out
    model, _, meta = tc.load(tmp_path / "ckpt")
    assert (model.in_chans, model.patch_size, model.grid) == (1, 8, (8, 8))
    assert meta["preprocessing"]["mean"] == pytest.approx([sum(Preprocessing().mean) / 3])
    assert tc.preprocess(np.zeros((70, 70, 3), np.uint8), meta).shape == (1, 64, 64, 1)
    flags = [str(path), "--in-chans", "5", "--adapt-patch-embed", "--out", str(tmp_path / "five")]
    assert convert(flags) == 0
    assert "mean and std of the preprocessing repeat those of the source" in capsys.readouterr().out
    mean = Preprocessing().mean
    assert tc.load(tmp_path / "five")[2]["preprocessing"]["mean"] == pytest.approx([*mean, *mean[:2]])


def test_checkpoint_becomes_a_directory_of_transformers(tmp_path, capsys):
    path = write(tmp_path / "model", "hf/vit", processor=PROCESSOR | {"size": 72, "crop_size": 64})
    assert convert([str(path), "--out", str(tmp_path / "ckpt")]) == 0
    assert convert([str(tmp_path / "ckpt"), "--format", "transformers", "--out", str(tmp_path / "back")]) == 0
    (model, variables, meta), (other, others, other_meta) = tc.load(path), tc.load(tmp_path / "back")
    assert model == other
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert meta["preprocessing"] == other_meta["preprocessing"]
    capsys.readouterr()
    for flags, message in (
        (["--format", "onnx", "--out", "x"], "unknown --format 'onnx'"),
        (["--format", "timm", "--out", "x"], "--format timm requires --out FILE.safetensors"),
        (["--format", "transformers", "--out", "x.safetensors"], "--format transformers requires --out DIR"),
        (["--dtype", "float16", "--out", "x"], "unknown --dtype 'float16'"),
        (["--dtype", "keep", "--format", "transformers", "--out", "x"], "--dtype cannot be combined with --out x"),
        (["--patch-size", "8", "--out", "x.safetensors"], "--patch-size cannot be combined with --out x.safetensors"),
    ):
        assert convert([str(tmp_path / "ckpt"), *flags]) == 2
        assert message in capsys.readouterr().err


def test_reduction_is_that_of_the_arguments_or_of_the_checkpoint(tmp_path):
    path = write(tmp_path / "model", "hf/vit")
    model, variables, meta = tc.load(path, reducer=tc.ToMe(), schedule=2)
    assert (model.reducer, model.removed) == (tc.ToMe(), (2, 2, 2))
    assert "preprocessing" not in meta
    checkpoint.save(tmp_path / "ckpt", variables, meta)
    assert tc.load(tmp_path / "ckpt")[0] == model
    assert tc.load(tmp_path / "ckpt", schedule=1)[0].removed == (1, 1, 1)
    assert tc.load(tmp_path / "ckpt", reducer=tc.EViT(), schedule=3)[0] == models.condense(model, tc.EViT(), 3)
    with pytest.raises(tc.InputError, match="schedule=2 requires reducer: pass reducer=tc.GTP"):
        tc.load(path, schedule=2)


def test_classifier_for_other_classes_is_new(tmp_path):
    path = write(tmp_path / "model", "hf/vit", id2label={str(index): f"class {index}" for index in range(7)})
    _, variables, meta = tc.load(path)
    checkpoint.save(tmp_path / "ckpt", variables, meta)
    save_file(cases.weights("deit"), tmp_path / "w.safetensors")
    for source in (path, tmp_path / "ckpt"):
        model, variables, meta = tc.load(source, num_classes=3)
        assert model.num_classes == 3
        assert not np.asarray(variables["params"]["head"]["kernel"]).any()
        assert meta["classes"] is None
        assert tc.load(source, num_classes=7)[2]["classes"] == [f"class {index}" for index in range(7)]
        assert "head" not in tc.load(source, num_classes=0)[1]["params"]


def test_conversion_without_a_classifier(tmp_path, capsys):
    path = write(tmp_path / "model", "hf/vit")
    assert convert([str(path), "--num-classes", "0", "--out", str(tmp_path / "ckpt")]) == 0
    assert "replaced    classifier.bias, classifier.weight" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "ckpt")[1], tc.load(path, num_classes=0)[1])
    changes = {"model.name": "", "weights": str(path), "schedule": 2, "data.name": "digits", "model.num_classes": 0}
    section = config.load("configs/deit_s_gtp.py", changes=changes)
    model = assembly.build_model(section.model, section.reduction)
    with pytest.raises(tc.InputError, match="data.name='digits': 10 classes, but the model has no classifier"):
        assembly.build_eval_data(section.data, 8, model, Preprocessing())


def test_weight_file_requires_the_name_of_its_model(tmp_path, monkeypatch):
    name = "vit_tiny_patch16_224"
    variables = cases.random_variables(tc.create_model(name, num_classes=5), scale=0.02)
    save_file(tc.convert.to_torch(variables, tc.create_model(name, num_classes=5)), tmp_path / "w.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    _, loaded, meta = tc.load("~/w.safetensors", model=name, num_classes=5)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert meta["provenance"]["source"] == "w.safetensors"
    assert meta["preprocessing"] == {**meta["preprocessing"], "mean": (0.5, 0.5, 0.5)}
    assert not np.asarray(tc.load("~/w.safetensors", model=name, num_classes=4)[1]["params"]["head"]["kernel"]).any()
    for arguments, message in (
        ({}, "w.safetensors: cannot infer the model; pass model=NAME"),
        ({"model": name}, "head.weight: expected shape"),
        ({"model": name, "weights": "ema"}, "weights='ema' cannot be combined with .*: only checkpoints have several"),
        ({"model": "vit_tiny"}, "unknown model 'vit_tiny'"),
    ):
        with pytest.raises(tc.InputError, match=message):
            tc.load(tmp_path / "w.safetensors", **arguments)


def test_text_encoder_is_counted(tmp_path, capsys):
    tensors = {f"vision_model.{name}": value for name, value in tensors_of("hf/clip").items()}
    texts = {f"text_model.layer.{index}.weight": np.zeros(2, np.float32) for index in range(5)}
    texts["text_projection.weight"] = np.zeros((2, 2), np.float32)
    inner = {key: value for key, value in family("hf/clip")["config"].items() if key != "architectures"}
    path = write(tmp_path / "model", "hf/clip", {**tensors, **texts})
    (path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": inner, "text_config": {}}))
    assert convert([str(path), "--out", str(tmp_path / "ckpt")]) == 0
    assert "ignored     tensors of the text encoder: 6" in capsys.readouterr().out


def half(tensors, name):
    return {**tensors, name: tensors[name].astype(np.int32)}


WRONG = {
    "wrong hidden size": ({"hidden_size": 40}, None, "config.json: hidden_size=40: must be 48"),
    "unknown model_type": ({"model_type": "swin"}, None, "config.json: model_type='swin': must be one of "),
    "activation that is missing": ({"hidden_act": "gelu_10"}, None, "config.json: hidden_act='gelu_10': must be "),
    "field that cannot be honored": ({"pruned_heads": {"0": [1]}}, None, "config.json: pruned_heads="),
    "tensor of another dtype": ({}, lambda tensors: half(tensors, "vit.layernorm.weight"), "expected a floating-point dtype, got int32"),
    "text encoder only": ({}, lambda tensors: {"text_model.a": np.zeros(2, np.float32)}, "the weights have only tensors of a text encoder"),
    "missing tensor": ({}, lambda tensors: {name: value for name, value in tensors.items() if "layernorm.bias" not in name}, "norm.bias: not found"),
}  # fmt: skip


def assert_rejected(path, message, capsys):
    before = sorted(path.parent.rglob("*"))
    assert convert([str(path), "--out", str(path.parent / "ckpt")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_directories_are_one_line_and_write_nothing(tmp_path, capsys, kind):
    changes, change, message = WRONG[kind]
    tensors = tensors_of("hf/vit")
    path = write(tmp_path / "model", "hf/vit", change(tensors) if change else tensors, **changes)
    assert_rejected(path, message, capsys)


def write_shards(path, names=("1.safetensors", "2.safetensors")):
    """Replace the weights of a directory by two files and their index."""
    tensors, file_of = tensors_of("hf/vit"), {}
    (path / "model.safetensors").unlink()
    for index, file in enumerate(names):
        part = {name: tensors[name] for name in sorted(tensors)[index::2]}
        file_of |= dict.fromkeys(part, file)
        save_file(part, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))


def remove_shard(path):
    write_shards(path)
    (path / "2.safetensors").unlink()


def name_absent_file(path):
    write_shards(path)
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("2.safetensors", "3.safetensors"))


def repeat_tensor(path):
    write_shards(path)
    save_file(tensors_of("hf/vit"), path / "2.safetensors")


def link_outside(path):
    (path / "model.safetensors").rename(path.parent / "outside.safetensors")
    (path / "model.safetensors").symlink_to("../outside.safetensors")


def write_long_header(path):
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b'{"a"')
        file.truncate(2**30 + 100)  # a sparse file


def truncate(path):
    os.truncate(path / "model.safetensors", 1000)


DAMAGED = {
    "missing shard": (remove_shard, "2.safetensors: not found"),
    "index that names an absent file": (name_absent_file, "3.safetensors: not found"),
    "index that names a file outside": (lambda path: write_shards(path, ("1.safetensors", "../2.safetensors")), "expected the name of a file in the directory, got '../2.safetensors'"),
    "two shards with one name": (repeat_tensor, "duplicate tensor "),
    "config.json that is a list": (lambda path: (path / "config.json").write_text("[]"), "config.json: expected `object`, got `array`"),
    "header of a gigabyte": (write_long_header, "cannot read as safetensors: "),
    "link out of the directory": (link_outside, "model.safetensors: a link out of the directory"),
    "truncated file": (truncate, "model.safetensors: cannot read as safetensors: "),
    "adapter beside the weights": (lambda path: (path / "adapter_config.json").write_text("{}"), "adapter_config.json: adapters are not supported; merge the adapter into the weights"),
    "no config.json": (lambda path: (path / "config.json").unlink(), "model: config.json not found; pass --model NAME"),
    "processor that is a list": (lambda path: (path / "processor_config.json").write_text('{"image_processor": [1]}'), "image_processor: expected an object, got a list"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_directories_are_one_line_and_write_nothing(tmp_path, capsys, kind):
    damage, message = DAMAGED[kind]
    path = write(tmp_path / "model", "hf/vit")
    damage(path)
    assert_rejected(path, message, capsys)


def test_directory_without_weights_names_what_is_near(tmp_path, capsys):
    (tmp_path / "steps").mkdir()
    path = write(tmp_path / "steps" / "checkpoint-100", "hf/vit")
    with pytest.raises(tc.InputError, match=f"steps: checkpoint not found; directories with config.json: {path}$"):
        tc.load(tmp_path / "steps")
    assert convert([str(path), "--format", "transformers", "--out", str(tmp_path / "out")]) == 2
    assert "checkpoint not found; convert the directory to a checkpoint first" in capsys.readouterr().err


def test_model_of_a_directory_of_timm_has_the_blocks_of_its_file(tmp_path, capsys):
    key = "timm/eva02_small_patch14_224"
    path = write(tmp_path / "model", key, model_args={**family(key)["overrides"], "depth": 10**6})
    message = "config.json: model_args.depth=1000000: must be 3, because the file has 3 blocks"
    assert_rejected(path, message, capsys)
    write(path, key, model_args={**family(key)["overrides"], "img_size": 65})
    assert_rejected(path, "config.json: img_size=65: must be a positive multiple of patch_size=16", capsys)
    with pytest.raises(tc.InputError, match="^img_size=50: must be a positive multiple"):
        tc.load(path, img_size=50)


def test_positions_have_the_grid_of_the_configuration(tmp_path):
    tensors, flat = tensors_of("hf/vit"), {"image_size": [16, 256]}
    path = write(tmp_path / "model", "hf/vit", tensors, **flat)
    variables = tc.load(path)[1]
    np.testing.assert_array_equal(variables["params"]["pos_embed"], tensors["vit.embeddings.position_embeddings"])
    # transformers takes the positions for those of a square to resample them.
    square = write(tmp_path / "square", "hf/vit", tensors)
    for size in ((256, 16), (96, 64)):
        resized = (tc.load(each, img_size=size)[1]["params"]["pos_embed"] for each in (path, square))
        np.testing.assert_array_equal(*resized)
    name = "vit.embeddings.position_embeddings"
    tensors = {**tensors, name: np.ascontiguousarray(tensors[name][:, :9])}
    path = write(tmp_path / "other", "hf/vit", tensors, image_size=[32, 64])
    assert tc.load(path)[0].grid == (2, 4)
    with pytest.raises(
        tc.InputError, match=r"config.json: image_size=\[32, 64\]: must have a square number of patches"
    ):
        tc.load(path, img_size=64)


def test_preprocessing_of_a_directory_stays_with_another_model(tmp_path):
    name = "vit_tiny_patch16_224"
    model = tc.create_model(name, num_classes=5)
    tensors = tc.convert.to_torch(cases.random_variables(model, scale=0.02), model)
    path = write(tmp_path / "model", "hf/vit", tensors, processor={**PROCESSOR, "crop_size": 30})
    preprocessing = tc.load(path, model=name, num_classes=5)[2]["preprocessing"]
    assert (preprocessing["crop_pct"], preprocessing["resize"]) == (30 / 36, None)
    (path / "config.json").unlink()
    (path / "preprocessor_config.json").unlink()
    assert tc.load(path, model=name, num_classes=5)[2]["preprocessing"]["crop_pct"] == 0.9


def test_scripts_take_the_model_of_a_directory(tmp_path):
    path = write(tmp_path / "model", "hf/vit", processor={**PROCESSOR, "size": 72, "crop_size": 64})
    pretrained = assembly.from_checkpoint(path)
    assert pretrained.preprocessing.crop_pct == 64 / 72
    assert pretrained.origin.record.classes is None
    changes = {"model.name": "", "schedule": 2, "weights": str(path), "model.drop_path_rate": 0.1}
    weights = assembly.from_weights(config.load("configs/deit_s_gtp.py", changes=changes))
    assert weights.model.drop_path_rate == 0.1
    assert weights.model.reducer == tc.GTP()
    assert weights.preprocessing == pretrained.preprocessing
    jax.tree.map(np.testing.assert_array_equal, weights.variables, pretrained.variables)
    sizes = {
        f"model.{name}": getattr(pretrained.model, name) for name in ("embed_dim", "depth", "num_heads", "img_size")
    }
    changes = {"weights": str(path), "new_head": True, "schedule": 2, "model.num_classes": 2, **sizes}
    with pytest.raises(tc.InputError, match="has norm_eps=1e-06, expected norm_eps=1e-12 of .*; set model.name=''"):
        assembly.from_weights(config.load("configs/deit_s_gtp.py", changes=changes))
    checkpoint.save(tmp_path / "ckpt", *tc.load(path, reducer=tc.EViT(), schedule=3)[1:])
    changes = {"model.name": "", "schedule": 2, "weights": str(tmp_path / "ckpt"), "model.drop_path_rate": 0.1}
    other = assembly.from_weights(config.load("configs/deit_s_gtp.py", changes=changes))
    assert other.model == weights.model
    assert other.preprocessing == weights.preprocessing
    with pytest.raises(tc.InputError, match="model.name='' requires weights"):
        assembly.build_model(config.load("configs/deit_s_gtp.py", changes={"model.name": ""}).model, config.Reduction())


def test_directory_without_processor_has_no_preprocessing(tmp_path):
    path = write(tmp_path / "model", "hf/dinov2")
    meta = tc.load(path)[2]
    with pytest.raises(
        tc.InputError, match="meta: no preprocessing; load the model from a source with preprocessor_config.json"
    ):
        tc.preprocess(np.zeros((8, 8, 3), np.uint8), meta)
    # Neither has its model, whose name stands for no published weights.
    with pytest.raises(tc.InputError, match="model 'vit': no preprocessing, because it has no published weights"):
        tc.preprocess(np.zeros((8, 8, 3), np.uint8), tc.load(path)[0])
    pretrained = assembly.from_checkpoint(path)
    hint = "add preprocessor_config.json, or set --config.data.mean, --config.data.std, "
    with pytest.raises(tc.InputError, match=f"no preprocessing in its metadata; {hint}"):
        _ = pretrained.preprocessing
    keys = {"mean": (0.4,) * 3, "std": (0.2,) * 3, "interpolation": "bicubic"}
    changes = {f"data.{key}": value for key, value in keys.items()}
    with pytest.raises(tc.InputError, match="no preprocessing in its metadata"):
        _ = pretrained.updated(changes).preprocessing
    expected = Preprocessing(**keys, crop_pct=1.0)
    assert pretrained.updated({**changes, "data.crop_pct": 1.0}).preprocessing == expected
    checkpoint.save(tmp_path / "ckpt", *tc.load(path)[1:])
    changes = {"model.name": "", "schedule": 2, "weights": str(tmp_path / "ckpt")}
    with pytest.raises(tc.InputError, match="no preprocessing in its metadata"):
        assembly.from_weights(config.load("configs/deit_s_gtp.py", changes=changes))


def test_positions_are_resampled_as_the_source_does(tmp_path):
    path = write(tmp_path / "model", "hf/vit")
    assert convert([str(path), "--out", str(tmp_path / "ckpt")]) == 0
    assert convert([str(tmp_path / "ckpt"), "--out", str(tmp_path / "w.safetensors")]) == 0
    expected = tc.load(path, img_size=96)[1]
    for source in (tmp_path / "ckpt", tmp_path / "w.safetensors"):
        jax.tree.map(np.testing.assert_array_equal, tc.load(source, img_size=96)[1], expected)
        changes = {"model.name": "", "schedule": 2, "weights": str(source), "model.img_size": 96}
        section = config.load("configs/deit_s_gtp.py", changes=changes)
        model = assembly.build_model(section.model, section.reduction)
        jax.tree.map(np.testing.assert_array_equal, assembly.load_weights(section.model, model), expected)


def test_dense_models_of_another_size_are_loaded_from_the_grid_of_the_source(tmp_path):
    """Positions are resampled once, whatever the size and the reduction of the model that was loaded first."""
    path = write(tmp_path / "model", "hf/dinov2", processor=PROCESSOR)
    assert convert([str(path), "--out", str(tmp_path / "ckpt")]) == 0
    changes = {"model.name": "", "reducer.name": "tome", "schedule": 1, "weights": str(path)}
    for source, pretrained in (
        (path, assembly.from_checkpoint(path, 80)),
        (path, assembly.from_weights(config.load("configs/deit_s_gtp.py", changes=changes))),
        (tmp_path / "ckpt", assembly.from_checkpoint(tmp_path / "ckpt", 80)),
    ):
        expected, variables, _ = tc.load(source, img_size=(48, 64))
        model, resized = pretrained.load_dense((48, 64))
        assert model.img_size == (48, 64) != pretrained.model.img_size and model.reducer is None
        assert model.cost() == expected.cost()
        jax.tree.map(np.testing.assert_array_equal, resized, variables)


@pytest.mark.parametrize("value", [["foo", True], ["cubic"], "cubic", 5, ["cubic", 1]])
def test_invalid_resampling_is_one_line(tmp_path, value):
    model = tc.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=3, num_classes=0, img_size=32)
    meta = {"model": models.to_config(model), "provenance": {"resampling": value}}
    checkpoint.save(tmp_path / "ckpt", cases.random_variables(model), meta)
    message = r"provenance.resampling in its metadata: expected \[METHOD, ANTIALIAS\] with METHOD cubic or linear or "
    with pytest.raises(tc.InputError, match=message):
        tc.load(tmp_path / "ckpt", img_size=48)


def test_exported_file_describes_its_model(tmp_path, capsys):
    path = write(tmp_path / "model", "hf/vit", id2label={str(index): f"class {index}" for index in range(7)})
    model, variables, meta = tc.load(path, reducer=tc.ToMe(), schedule=2)
    checkpoint.save(tmp_path / "ckpt", variables, meta)
    assert convert([str(tmp_path / "ckpt"), "--out", str(tmp_path / "w.safetensors")]) == 0
    loaded, others, other_meta = tc.load(tmp_path / "w.safetensors")
    assert loaded == model
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert other_meta["classes"] == meta["classes"]
    for key in ("model_type", "resampling", "has_class_names"):
        assert other_meta["provenance"][key] == meta["provenance"][key]
    assert convert([str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "again")]) == 0
    assert "vit, vit of transformers" in capsys.readouterr().out
    assert tc.load(tmp_path / "again")[0] == model

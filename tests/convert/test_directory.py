"""Directories of transformers and timm: their files, and what is wrong with them."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.convert import directory, shards
from tcvit_jax.convert.directory import open_directory, open_weights

TENSORS = {name: np.full((2, 3), index, np.float32) for index, name in enumerate(("a", "b", "c", "d"))}
SHARDS = {"model-00001-of-00002.safetensors": ("a", "b"), "model-00002-of-00002.safetensors": ("c", "d")}
INDEX = "model.safetensors.index.json"


def write_json(path, values):
    path.write_text(json.dumps(values))


def write_shards(path, contents=SHARDS, save=save_file):
    """Write the files and their index."""
    for file, names in contents.items():
        save({name: TENSORS[name] for name in names}, path / file)
    weight_map = {name: file for file, names in contents.items() for name in names}
    write_json(path / INDEX, {"metadata": {"total_size": 96}, "weight_map": weight_map})


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    write_json(path / "config.json", {"model_type": "vit"})
    return path


def assert_tensors(weights):
    assert sorted(weights) == sorted(TENSORS)
    for name, value in TENSORS.items():
        assert weights.shape(name) == value.shape
        np.testing.assert_array_equal(np.asarray(weights[name]), value)


def message_of(call, *arguments):
    with pytest.raises(tc.InputError) as error:
        call(*arguments)
    assert str(error.value).isprintable()
    return str(error.value)


def test_one_file(folder):
    save_file(TENSORS, folder / "model.safetensors")
    source = open_directory(folder)
    assert (source.kind, source.config, source.processor) == ("transformers", {"model_type": "vit"}, None)
    weights = open_weights(folder)
    assert_tensors(weights)
    assert (weights.kind, weights.files) == ("safetensors", (folder / "model.safetensors",))


def test_several_files(folder):
    write_shards(folder)
    weights = open_weights(folder)
    assert_tensors(weights)
    assert weights.path == folder / INDEX
    assert weights.files == tuple(folder / name for name in SHARDS)
    assert sorted(weights.select("", ["a"])) == ["b", "c", "d"]


def test_files_of_torch(folder, torch):
    def save(tensors, path):
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)

    contents = {name.replace("model", "pytorch_model").replace("safetensors", "bin"): SHARDS[name] for name in SHARDS}
    write_shards(folder, contents, save)
    (folder / INDEX).rename(folder / "pytorch_model.bin.index.json")
    weights = open_weights(folder)
    assert_tensors(weights)
    assert weights.kind == "torch"
    save({name: TENSORS[name] for name in "abcd"}, folder / "pytorch_model.bin")
    assert open_weights(folder).files == (folder / "pytorch_model.bin",)


def test_tensors_of_torch_are_mapped_again(folder, torch, monkeypatch):
    from tcvit_jax.convert import files

    monkeypatch.setattr(files, "MAX_MAPPED", 30)
    torch.save({name: torch.from_numpy(value) for name, value in TENSORS.items()}, folder / "pytorch_model.bin")
    weights = open_weights(folder)
    for _ in range(2):
        assert_tensors(weights)


def test_directories_of_timm_have_an_architecture(folder):
    write_json(folder / "config.json", {"architecture": "vit_tiny_patch16_224"})
    assert open_directory(folder).kind == "timm"


def test_processor(folder):
    write_json(folder / "processor_config.json", {"image_processor": {"size": 8}, "processor_class": "CLIPProcessor"})
    assert open_directory(folder).processor == {"size": 8}
    assert open_directory(folder).processor_path == folder / "processor_config.json"
    write_json(folder / "processor_config.json", {"image_processor": [1]})
    assert message_of(open_directory, folder).endswith(
        "processor_config.json: image_processor: expected an object, got a list"
    )
    write_json(folder / "preprocessor_config.json", {"size": 9})
    assert open_directory(folder).processor == {"size": 9}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected `object`, got `array`"),
        ("7", "expected `object`, got `int`"),
        ("{", "invalid JSON (Expecting property name"),
        ('{"model_type": "vit", "model_type": "deit"}', "invalid JSON (duplicate key 'model_type')"),
        ('{"model_type": "vit", "layer_norm_eps": NaN}', "invalid JSON (NaN is not a JSON number)"),
        ('{"model_type": "vit", "a": {"b": [1e999]}}', "a.b.0: must be finite"),
        ("[" * 100_000, "expected at most 32 levels of nesting"),
        ('{"hidden_size": 8}', "expected the name model_type (transformers) or architecture (timm)"),
        (
            '{"model_type": "vit", "architecture": "vit_tiny_patch16_224"}',
            "expected the name model_type (transformers) or architecture (timm), got both",
        ),
        ('{"model_type": 3}', "expected the name model_type (transformers) or architecture (timm)"),
        (" " * (directory.MAX_CONFIG + 1), "expected up to 10,000,000 bytes, got 10,000,001"),
    ],
)
def test_invalid_configurations_are_rejected(folder, text, problem):
    (folder / "config.json").write_text(text)
    assert message_of(open_directory, folder).startswith(f"{folder / 'config.json'}: {problem}")


def test_missing_files_are_reported(folder, tmp_path):
    assert message_of(open_directory, tmp_path / "nothing").startswith(
        f"{tmp_path}/nothing: config.json not found; pass "
    )
    assert message_of(open_weights, folder).startswith(f"{folder}: weights not found; expected model.safetensors,")
    (folder / "model.safetensors").mkdir()
    assert message_of(open_weights, folder) == f"{folder / 'model.safetensors'}: expected a file, got a directory"


def weights_message(path):
    before = sorted(path.rglob("*"))
    message = message_of(open_weights, path)
    assert sorted(path.rglob("*")) == before
    return message.replace(str(path), "DIR")


def test_shards_are_those_of_the_index(folder):
    first, second = SHARDS
    write_shards(folder)
    (folder / second).unlink()
    assert weights_message(folder) == f"DIR/{second}: not found"
    write_shards(folder, {first: "ab", second: "bcd"})
    assert weights_message(folder) == f"DIR/{INDEX}: duplicate tensor 'b', in {first} and in {second}"
    write_shards(folder)
    save_file({"c": TENSORS["c"]}, folder / second)
    assert weights_message(folder) == f"DIR/{INDEX}: not found: d in {second}; {shards._HINT}"
    save_file({**TENSORS, "e": TENSORS["d"]}, folder / second)
    save_file({"a": TENSORS["a"], "b": TENSORS["b"], "e": TENSORS["d"]}, folder / first)
    assert "duplicate tensor 'e'" in weights_message(folder)
    write_shards(folder)
    save_file({name: TENSORS["a"] for name in "abf"}, folder / first)
    assert weights_message(folder) == f"DIR/{INDEX}: not in the index: f in {first}; {shards._HINT}"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "expected `object`, got `array`"),
        ({}, "object missing required field `weight_map`"),
        ({"weight_map": []}, "weight_map: expected `object`, got `array`"),
        ({"weight_map": {}}, "weight_map: expected the file of each tensor"),
        ({"weight_map": {"a": 1}}, "weight_map[...]: expected `str`, got `int`"),
        *(
            ({"weight_map": {"a": name}}, f"expected the name of a file in the directory, got {name!r}")
            for name in ("../w.safetensors", "/etc/passwd", "x/w.safetensors", "", ".", "..", "a\\b", "\0")
        ),
    ],
)
def test_invalid_indexes_are_rejected(folder, values, problem):
    write_json(folder / INDEX, values)
    assert weights_message(folder) == f"DIR/{INDEX}: {problem}"


def test_links_out_of_the_directory_are_rejected(folder, tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    (folder / "model.safetensors").symlink_to("../w.safetensors")
    problem = "a link out of the directory; replace the link with the file"
    assert weights_message(folder) == f"DIR/model.safetensors: {problem}"
    (folder / "model.safetensors").unlink()
    save_file(TENSORS, folder / "w.safetensors")
    (folder / "model.safetensors").symlink_to("w.safetensors")
    assert_tensors(open_weights(folder))
    (folder / "config.json").rename(tmp_path / "config.json")
    os.symlink("../config.json", folder / "config.json")
    assert message_of(open_directory, folder) == f"{folder}/config.json: {problem}"
    (tmp_path / "config.json").unlink()
    assert directory.is_directory(folder)
    assert message_of(open_directory, folder) == f"{folder}/config.json: not found"


def test_cache_of_the_hub_consists_of_links(tmp_path):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_json(repository / "blobs" / "1", {"model_type": "vit"})
    save_file(TENSORS, repository / "blobs" / "2")
    for blob, name in (("1", "config.json"), ("2", "model.safetensors")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert_tensors(open_weights(snapshot))
    save_file(TENSORS, tmp_path / "w")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../w")
    assert "a link out of the directory" in message_of(open_weights, snapshot)


def test_damaged_weights_are_rejected(folder):
    path = folder / "model.safetensors"
    save_file(TENSORS, path)
    content = path.read_bytes()
    for size in (0, 7, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert weights_message(folder).startswith("DIR/model.safetensors: ")
    path.write_bytes(struct.pack("<Q", 2**30) + b"{")
    assert weights_message(folder).startswith("DIR/model.safetensors: cannot read as safetensors: ")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30) + b'{"a"')
        file.truncate(2**30 + 100)  # a sparse file, so that the header could be read
    assert "too large" in weights_message(folder)

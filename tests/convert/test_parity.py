"""Conversion of a full-size model of each family, compared with the installed timm; skipped without timm."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tcvit_jax as tc
from tcvit_jax.convert.parity import CannotCompareError, read_photo, sample_photo
from tests import golden
from tests.convert.cases import augreg, big_vision, dinov2

FAMILIES = [
    "deit_small_patch16_224.fb_in1k",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit3_small_patch16_224.fb_in22k_ft_in1k",
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k",
    "vit_base_patch32_224.augreg_in21k",
    "vit_small_patch8_224.dino",
    "vit_base_patch16_224.mae",
    "vit_medium_patch16_gap_256.sw_in12k_ft_in1k",
    "vit_medium_patch16_gap_384.sw_in12k_ft_in1k",
    "eva_large_patch14_196.in22k_ft_in22k_in1k",
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "vit_base_patch16_clip_quickgelu_224.openai",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_reg4_dinov2.lvd142m",
]


def random_weights(timm, name, **options):
    """Return weights with timm's names and enough spread that every block affects the logits."""
    shapes = {key: list(value.shape) for key, value in timm.create_model(name, **options).state_dict().items()}
    return golden.state_dict(shapes, 5)


def difference(report):
    print(report.model, report.parity)  # for `pytest -rP`
    assert "largest logit difference from timm" in report.parity, report.parity
    return float(report.parity.split()[5])


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_timm_and_export_is_bit_exact(timm, tmp_path, name):
    path = tmp_path / "w.safetensors"
    weights = random_weights(timm, name)
    save_file(weights, path)
    report = tc.convert.to_checkpoint(str(path), tmp_path / "ckpt", name)
    assert difference(report) < 1e-4
    assert report.parameters == report.published_parameters == sum(value.size for value in weights.values())
    tc.convert.to_safetensors(tmp_path / "ckpt", tmp_path / "back.safetensors")
    exported = load_file(tmp_path / "back.safetensors")
    assert set(exported) == set(weights)
    for key, value in weights.items():
        np.testing.assert_array_equal(exported[key], value)
    timm.create_model(name, checkpoint_path=str(tmp_path / "back.safetensors"))


@pytest.mark.parametrize(
    ("name", "size"),
    [("deit_tiny_patch16_224", (192, 320)), ("vit_small_patch14_reg4_dinov2", 224), ("deit3_small_patch16_224", 384)],
)
def test_resampled_positions_equal_timm(timm, tmp_path, name, size):
    path = tmp_path / "w.safetensors"
    save_file(random_weights(timm, name), path)
    report = tc.convert.to_checkpoint(str(path), tmp_path / "ckpt", name, overrides={"img_size": size})
    assert report.conversion.resampled == ("pos_embed",)
    assert difference(report) < 1e-4


def test_augreg_files_equal_timm(timm, tmp_path):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    np.savez(tmp_path / "w.npz", **augreg(random_weights(timm, name), 3))
    assert difference(tc.convert.to_checkpoint(tmp_path / "w.npz", tmp_path / "ckpt", name)) < 1e-4
    larger = tc.convert.to_checkpoint(tmp_path / "w.npz", tmp_path / "ckpt2", name, overrides={"img_size": 288})
    assert larger.conversion.resampled
    assert difference(larger) < 1e-4


def test_training_checkpoint_with_other_classes_equals_timm(torch, timm, tmp_path):
    import argparse

    name = "deit_tiny_patch16_224"
    tensors = {key: torch.from_numpy(value) for key, value in random_weights(timm, name, num_classes=7).items()}
    torch.save({"epoch": 3, "args": argparse.Namespace(lr=1e-3), "state_dict": tensors}, tmp_path / "w.pth.tar")
    source = str(tmp_path / "w.pth.tar")
    report = tc.convert.to_checkpoint(source, tmp_path / "ckpt", name, overrides={"num_classes": 7})
    assert difference(report) < 1e-4


def test_comparison_can_fail(timm, tmp_path, monkeypatch):
    """The comparison detects the tanh approximation of GELU."""
    import jax

    from tcvit_jax.ops import activations

    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", lambda x: jax.nn.gelu(x, approximate=True))
    save_file(random_weights(timm, "deit_tiny_patch16_224"), tmp_path / "w.safetensors")
    with pytest.raises(tc.InputError, match="largest logit difference from timm .* nothing was written"):
        tc.convert.to_checkpoint(str(tmp_path / "w.safetensors"), tmp_path / "ckpt", "deit_tiny_patch16_224")


def test_zoo_equals_timm(torch, timm):
    """Compare parameter counts, preprocessing, and the default tag of each name."""
    from tcvit_jax.models import zoo

    for name, entry in zoo.ZOO.items():
        if name.startswith("lvvit"):
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        config = model.pretrained_cfg
        assert entry.parameters == sum(value.numel() for value in model.parameters()), name
        assert entry.preprocessing == zoo.Preprocessing(
            tuple(config["mean"]), tuple(config["std"]), config["crop_pct"], config["interpolation"],
            config.get("crop_mode") or "center",
        ), name  # fmt: skip
        assert model.num_classes == tc.create_model(name).num_classes, name
        assert config["input_size"][1:] == tc.create_model(name).img_size, name
        assert timm.is_model(name.partition(".")[0])
    for name in tc.list_models():
        tag = zoo.full_name(name).partition(".")[2]
        if not name.startswith("lvvit") and tag not in ("dino", "mae"):
            assert timm.get_pretrained_cfg(name).tag == tag, name


def test_missing_or_invalid_photo_is_reported(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(CannotCompareError, match="requires --photo FILE or scikit-learn"):
        sample_photo()
    (tmp_path / "photo.jpg").write_bytes(b"junk")
    with pytest.raises(tc.InputError, match="photo.jpg: cannot read the photo: "):
        read_photo(tmp_path / "photo.jpg")


def test_official_dinov2_files_equal_timm(timm, tmp_path):
    """timm reads the same file, once whole and once as a part of a checkpoint."""
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    weights = dinov2(random_weights(timm, name))
    weights = {key.replace("blocks.0.", "blocks.", 1): value for key, value in weights.items()}
    save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, tmp_path / "w")
    report = tc.convert.to_checkpoint(tmp_path / "w", tmp_path / "ckpt", name)
    assert difference(report) < 1e-4
    named = {f"backbone.{key}": np.ascontiguousarray(value) for key, value in weights.items()}
    save_file(named | {"head": np.zeros(1)}, tmp_path / "teacher")
    selected = tc.convert.to_checkpoint(tmp_path / "teacher", tmp_path / "ckpt2", name, prefix="backbone.")
    assert difference(selected) < 1e-4
    assert selected.checksum == report.checksum


@pytest.mark.parametrize("is_stacked", [False, True])
def test_big_vision_files_equal_timm(timm, tmp_path, is_stacked):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    tensors = big_vision(augreg(random_weights(timm, name), 3), is_stacked)
    tensors = {f"params/{key}": value for key, value in tensors.items()}
    model = timm.create_model(name, no_embed_class=True)
    np.savez(tmp_path / "w.npz", **tensors, **{"opt/count": np.zeros(())})
    model.load_pretrained(str(tmp_path / "w.npz"))
    variables = tc.convert.from_torch(tc.convert.read_state_dict(tmp_path / "w.npz"), tc.create_model(name))
    expected = {key: value.numpy() for key, value in model.state_dict().items()}
    actual = tc.convert.to_torch(variables, tc.create_model(name))
    assert not actual["pos_embed"][:, :1].any()
    actual["pos_embed"] = actual["pos_embed"][:, 1:]
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value)


def test_torch_file_with_standard_types_equals_timm(torch, timm, tmp_path):
    """timm also reads a file with half-precision kernels, paths and NumPy numbers."""
    import argparse

    name = "deit_tiny_patch16_224"
    tensors = {key: torch.from_numpy(value) for key, value in random_weights(timm, name).items()}
    tensors = {key: value.half() if value.ndim > 1 else value for key, value in tensors.items()}
    content = {"args": argparse.Namespace(out=tmp_path, lr=np.float64(0.1)), "state_dict": tensors}
    torch.save(content, tmp_path / "last.ckpt")
    report = tc.convert.to_checkpoint(tmp_path / "last.ckpt", tmp_path / "ckpt", name)
    assert set(report.conversion.dtypes) == {"float16", "float32"}
    assert difference(report) < 1e-4


def test_refusal_of_timm_has_no_advice_to_execute_code(torch, timm, tmp_path, monkeypatch):
    from tcvit_jax import pickles

    name = "deit_tiny_patch16_224"
    content = {key: torch.from_numpy(value) for key, value in random_weights(timm, name).items()}
    torch.save({**content, "lr": np.float64(0.1)}, tmp_path / "w.pth")
    with monkeypatch.context() as patch:
        patch.setattr(pickles, "standard_types", lambda: torch.serialization.safe_globals([]))
        with pytest.raises(tc.InputError, match="w.pth: contains 'numpy._core.multiarray.scalar'; only tensors"):
            tc.convert.read_state_dict(tmp_path / "w.pth")
    report = tc.convert.to_checkpoint(tmp_path / "w.pth", tmp_path / "ckpt", name, ignore=["lr"])
    assert difference(report) < 1e-4

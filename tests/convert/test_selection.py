"""Selection of tensors by prefix and pattern, entries of checkpoints, and the hints of errors."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.convert.__main__ import main
from tcvit_jax.convert.mapping import convert
from tests.convert import cases
from tests.convert.cases import weights

MODEL = cases.model("deit")


def prefixed(prefix, tensors=None):
    return {f"{prefix}{name}": tensor for name, tensor in (tensors or weights()).items()}


EXTRA = {"projector.0.weight": np.ones((3, 3), np.float32), "projector.0.bias": np.ones(3, np.float32)}


def read(tmp_path, tensors, **selection):
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "w.safetensors")
    return tc.convert.read_state_dict(tmp_path / "w.safetensors", **selection)


def message_of(tensors, model=MODEL):
    with pytest.raises(tc.InputError) as error:
        tc.convert.from_torch(tensors, model)
    return str(error.value).rpartition("; ")[2]


def test_prefix_and_ignored_patterns(tmp_path):
    tensors = prefixed("encoder.", weights() | EXTRA) | prefixed("decoder.")
    file = read(tmp_path, tensors, prefix="encoder.", ignore=["projector.*"])
    assert sorted(file) == sorted(weights())
    assert (file.prefix, len(file.outside)) == ("encoder.", len(weights()))
    assert file.ignored == {"projector.*": ("encoder.projector.0.bias", "encoder.projector.0.weight")}
    np.testing.assert_array_equal(file["head.weight"], weights()["head.weight"])
    conversion = convert(file, MODEL)
    assert len(conversion.mapped) == len(weights())
    # Patterns match names with and without the prefix.
    assert sorted(read(tmp_path, tensors, prefix="encoder.", ignore=["encoder.proj*"])) == sorted(weights())


def test_selection_of_nothing_is_an_error(tmp_path):
    with pytest.raises(
        tc.InputError,
        match=r"^prefix='enc.': must be the start of a tensor name; names start with blocks., cls_token, ",
    ):
        read(tmp_path, weights(), prefix="enc.")
    with pytest.raises(tc.InputError, match=r"^ignore='proj.\*': must be a pattern of tensor names; such as blocks"):
        read(tmp_path, weights(), ignore=["proj.*"])


@pytest.mark.parametrize(
    ("tensors", "hint"),
    [
        (prefixed("trunk."), "use prefix='trunk.' (--prefix trunk.) to read only the tensors of the model"),
        (prefixed("model.") | EXTRA, "use prefix='model.' (--prefix model.) to read only the tensors of the model"),
        (
            prefixed("student.backbone.") | prefixed("teacher.backbone."),
            "use prefix='student.backbone.' (--prefix student.backbone.) or prefix='teacher.backbone.' "
            "(--prefix teacher.backbone.) to read only the tensors of the model",
        ),
        (
            prefixed("module.backbone.") | {"module.head.mlp.0.weight": np.ones(3, np.float32)},
            "use prefix='module.backbone.' (--prefix module.backbone.) to read only the tensors of the model",
        ),
        (weights() | EXTRA, "use ignore=['projector.*'] (--ignore 'projector.*') to leave tensors out"),
        (
            weights() | EXTRA | {"epoch": np.ones(1), "blocks.0.extra": np.ones(1)},
            "use ignore=['blocks.0.extra', 'epoch', 'projector.*'] (--ignore 'blocks.0.extra' --ignore 'epoch' "
            "--ignore 'projector.*') to leave tensors out",
        ),
        (
            {name: value for name, value in weights().items() if not name.startswith("head.")} | EXTRA,
            "use new_head=True (--new-head) for a new classifier and ignore=['projector.*'] (--ignore 'projector.*') "
            "to leave tensors out",
        ),
    ],
)  # fmt: skip
def test_errors_suggest_the_selection_that_helps(tensors, hint):
    assert message_of(tensors) == hint


@pytest.mark.parametrize("prefix", ["encoder.", "teacher.backbone.", "module.model.encoder.", "base_model.vit."])
def test_prefix_that_gives_all_tensors_is_removed(prefix):
    """Names without the prefix stay, such as those of a classifier beside the encoder."""
    tensors = {name if name.startswith("head.") else f"{prefix}{name}": value for name, value in weights().items()}
    conversion = convert(tensors, MODEL)
    assert (len(conversion.mapped), conversion.ignored) == (len(weights()), ())
    assert conversion.notes == (f"prefix {prefix!r} was removed from names",)
    # Names without any prefix come first, so that the others are not expected.
    with pytest.raises(tc.InputError, match=f"{prefix}cls_token: unexpected"):
        convert(weights() | tensors, MODEL)


def test_several_prefixes_that_give_all_tensors_are_an_error():
    with pytest.raises(tc.InputError) as error:
        convert(prefixed("student.") | prefixed("teacher."), MODEL)
    assert str(error.value) == (
        "weights for deit_tiny_patch16_224: several prefixes fit; use prefix='student.' (--prefix student.) or "
        "prefix='teacher.' (--prefix teacher.) to read only the tensors of the model"
    )


def test_suggested_selection_helps(tmp_path):
    """Each hint of the errors is followed until the file is converted."""
    tensors = prefixed("net.encoder.") | prefixed("net.", EXTRA) | {"net.encoder.a[0]*": np.ones(1, np.float32)}
    selection = {"prefix": "", "ignore": []}
    hints = []
    while len(hints) < 4:
        try:
            file = read(tmp_path, tensors, **selection)
            conversion = convert(file, MODEL)
            break
        except tc.InputError as error:
            hints.append(str(error).rpartition("; use ")[2])
            key, _, value = hints[-1].partition(" (")[0].partition("=")
            selection[key] = eval(value)
    assert len(hints) == 2
    assert len(conversion.mapped) == len(weights())


def test_missing_tensor_has_no_hint_to_leave_others_out():
    tensors = weights() | EXTRA
    del tensors["cls_token"]
    with pytest.raises(tc.InputError, match=r"projector.0.weight: unexpected$"):
        convert(tensors, MODEL)


def test_big_vision_with_two_towers():
    augreg = cases.augreg(weights(), 3)
    tensors = prefixed("params/img/", cases.big_vision(augreg)) | {
        "params/txt/head/kernel": np.ones(3),
        "params/t": np.ones(1),
    }
    assert message_of(tensors) == (
        "use prefix='params/img/' (--prefix params/img/) to read only the tensors of the model"
    )


def test_report_counts_the_selection(tmp_path, capsys):
    name, overrides, _, _ = cases.case("deit")
    save_file(prefixed("encoder.", weights() | EXTRA) | EXTRA, tmp_path / "w.safetensors")
    report = tc.convert.to_checkpoint(
        tmp_path / "w.safetensors", tmp_path / "ckpt", name, overrides=overrides, compare=False,
        prefix="encoder.", ignore=["projector.*.bias", "projector.*"],
    )  # fmt: skip
    rows = [line for line in str(report).splitlines() if line.startswith("selection")]
    assert rows == [
        "selection   prefix 'encoder.': other tensors not read: 2",
        "selection   ignore 'projector.*.bias': tensors not read: 1",
        "selection   ignore 'projector.*': tensors not read: 1",
    ]
    assert tc.load(tmp_path / "ckpt")[2]["provenance"]["selection"] == report.selection


def test_flags_cannot_be_combined_with_an_export(tmp_path, capsys):
    for flags in (["--prefix", "a."], ["--ignore", "a.*"]):
        assert main(["runs/x", "--out", "x.safetensors", *flags]) == 2
        assert f"error: {flags[0]} cannot be combined with --out x.safetensors" in capsys.readouterr().err


def test_checkpoints_of_self_supervised_training(torch, tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    zeros = {name: torch.zeros_like(value) for name, value in tensors.items()}
    head = {"head.mlp.0.weight": torch.ones(3)}
    path = tmp_path / "w.pth"
    torch.save({"student": prefixed("module.backbone.", zeros), "teacher": prefixed("backbone.", tensors) | head}, path)
    with pytest.raises(tc.InputError, match=r"use prefix='backbone.' \(--prefix backbone.\)"):
        convert(tc.convert.read_state_dict(path), MODEL)
    file = tc.convert.read_state_dict(path, prefix="backbone.")
    assert file.entry == "teacher"
    assert len(convert(file, MODEL).mapped) == len(weights())
    student = tc.convert.read_state_dict(path, "student")
    with pytest.raises(tc.InputError, match=r"patch_embed.proj.weight: all zeros"):
        convert(student, MODEL)


def test_checkpoints_of_lightning(torch, tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    content = {
        "epoch": 3, "global_step": np.int64(5), "pytorch-lightning_version": "2.4.0", "callbacks": {}, "loops": {},
        "state_dict": prefixed("model.", tensors), "hyper_parameters": {"path": tmp_path, "lr": np.float64(0.1)},
        "optimizer_states": [{"state": {}}],
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt")
    file = tc.convert.read_state_dict(tmp_path / "last.ckpt")
    assert file.entry == "state_dict"
    assert len(convert(file, MODEL).mapped) == len(weights())
    content["state_dict"]["criterion.weight"] = torch.ones(10)
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(tc.InputError, match=r"use prefix='model.' \(--prefix model.\)"):
        convert(tc.convert.read_state_dict(tmp_path / "last.ckpt"), MODEL)
    assert len(convert(tc.convert.read_state_dict(tmp_path / "last.ckpt", prefix="model."), MODEL).mapped) == len(
        weights()
    )

"""Weights from the Hugging Face Hub: the real client with a local server."""

import hashlib
import http.server
import json
import re
import threading

import numpy as np
import pytest
from safetensors.numpy import save

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.convert import hub
from tests import golden
from tests.convert import cases

NAME, OTHER = "deit_tiny_patch16_224.fb_in1k", "deit_small_patch16_224.fb_in1k"


@pytest.mark.parametrize(
    ("source", "repo"),
    [
        ("timm/vit_small_patch16_224.dino", "timm/vit_small_patch16_224.dino"),
        ("hf-hub:timm/deit_small_patch16_224.fb_in1k", "timm/deit_small_patch16_224.fb_in1k"),
        ("hf_hub:timm/x", "timm/x"),
        ("timm/vit_base_patch16_clip_quickgelu_224.openai", "timm/vit_base_patch16_clip_224.openai"),
        ("weights/timm/x.safetensors", None),
        ("deit.pth", None),
        ("facebook/dinov2-small", "facebook/dinov2-small"),
        ("hf-hub:facebook/dinov2-small", "facebook/dinov2-small"),
        ("hf-hub:a/w.pth", "a/w.pth"),
        ("facebook/dinov2/small", None),
        ("./facebook", None),
        ("../dinov2-small", None),
        ("/data/model", None),
    ],
)
def test_repository_names(source, repo):
    assert hub.repository(source) == repo


def test_file_takes_precedence_over_repository(tmp_path, monkeypatch):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "x.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert hub.repository("timm/x.pth") is None
    assert hub.repository("hf-hub:timm/x.pth") == "timm/x.pth"


def test_path_takes_precedence_over_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.repository("runs/deit") == "runs/deit"
    (tmp_path / "runs").mkdir()
    assert hub.repository("runs/deit") is None


def test_invalid_repositories_are_rejected():
    for source in ("hf-hub:deit", "hf-hub:a/b/c", "hf-hub:"):
        with pytest.raises(tc.InputError, match=f"source='{source}': must be hf-hub:ORG/NAME"):
            hub.repository(source)


class Repository:
    """A stand-in for the client, with the cache of one repository."""

    def __init__(self, folder, files):
        self.folder, self.files, self.requests = folder / "models--org--name", files, []

    def hf_hub_download(self, repo, name, revision=None):
        from huggingface_hub.errors import EntryNotFoundError

        assert repo == "org/name"
        assert revision in (None, "0123")
        self.requests.append(name)
        if name not in self.files:
            raise EntryNotFoundError(name)
        path = self.folder / "snapshots" / "0123" / name
        blob = self.folder / "blobs" / str(abs(hash(name)))
        for each in (path, blob):
            each.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(self.files[name])
        if not path.is_symlink():
            path.symlink_to(f"../../blobs/{blob.name}")
        return str(path)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    import huggingface_hub

    def make(files):
        fake = Repository(tmp_path, files)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
        return fake

    return make


def test_shards_of_a_repository_are_downloaded(repository):
    tensors = {"a": np.zeros(2, np.float32)}, {"b": np.ones(3, np.float32)}
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    fake = repository({
        "config.json": b'{"model_type": "vit", "auto_map": {"AutoModel": "code.Model"}}', "code.py": b"raise ValueError",
        "model.safetensors.index.json": json.dumps(index).encode(), "pytorch_model.bin": b"",
        "1.safetensors": save(tensors[0]), "2.safetensors": save(tensors[1]),
    })  # fmt: skip
    folder = hub.download_directory("org/name")
    assert folder == fake.folder / "snapshots" / "0123"
    assert {"code.py", "pytorch_model.bin"}.isdisjoint(fake.requests)
    weights = tc.convert.read_state_dict("hf-hub:org/name")
    assert {name: weights[name].tolist() for name in weights} == {"a": [0, 0], "b": [1, 1, 1]}


def test_model_of_a_repository_is_loaded(repository):
    case = next(case for case in golden.read("families")[0]["cases"] if case["key"] == "hf/vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
    repository({
        "config.json": json.dumps(case["config"]).encode(), "preprocessor_config.json": json.dumps(processor).encode(),
        "model.safetensors": save(golden.state_dict(case["shapes"], case["seed"])),
    })  # fmt: skip
    model, _, meta = tc.load("org/name", reducer=tc.ToMe(), schedule=2)
    assert model.removed == (2, 2, 2)
    assert meta["provenance"]["source"] == "org/name"
    assert meta["preprocessing"]["crop_mode"] == "squash"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "org/name: config.json not found; pass --model NAME or model=NAME, one of tc.list_models()"),
        ({"config.json": b"{}"}, "org/name: weights not found; expected model.safetensors, "),
        ({"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'}, "expected the name of a file"),
        ({"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "b"}}'},
         "org/name/model.safetensors.index.json: b not found"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_incomplete_repositories_are_rejected(repository, files, message):
    repository(files)
    with pytest.raises(tc.InputError) as error:
        hub.download_directory("org/name")
    assert message in str(error.value)


@pytest.fixture(scope="module")
def hub_server():
    """Yield the address of a hub with the weights of one model, and the content of the weight file."""
    model = models.create_model(NAME)
    variables = cases.random_variables(model, scale=0.02)
    content = save(tc.convert.to_torch(variables, model))

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.respond(has_body=False)

        def do_GET(self):
            self.respond(has_body=True)

        def respond(self, has_body):
            match = re.fullmatch(rf"/timm/({NAME}|empty)/resolve/main/(.+)", self.path)
            if not match or match[1] == "empty" or match[2] != "model.safetensors":
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if match else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if has_body:
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", content
    server.shutdown()
    server.server_close()
    thread.join()


CALLS = """
import contextlib, io, json, sys
from tcvit_jax.convert.__main__ import main
results = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    results.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def run_commands(script, home, calls, **variables):
    """Return status, output and errors of the command for each list of arguments, run in one process."""
    (home / "calls.py").write_text(CALLS)
    result = script(
        str(home / "calls.py"), json.dumps(calls), cwd=home, HF_HOME=str(home / "hf"), HF_HUB_DISABLE_PROGRESS_BARS="1",
        **variables,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_repository_is_converted_and_missing_weights_are_reported(script, hub_server, tmp_path):
    converted, unknown, other, empty = run_commands(
        script,
        tmp_path,
        [
            [f"hf-hub:timm/{NAME}", "--out", "ckpt", "--no-parity"],
            ["timm/empty", "--out", "two"],
            [f"hf-hub:timm/{OTHER}", "--out", "two"],
            ["timm/empty", "--model", NAME, "--out", "two"],
        ],
        HF_ENDPOINT=hub_server[0],
    )
    assert converted[0] == 0, converted[2]
    digest = hashlib.sha256(hub_server[1]).hexdigest()
    assert f"source      timm/{NAME}, sha256 {digest}" in converted[1].splitlines()
    model, _, meta = tc.load(tmp_path / "ckpt")
    assert model.variant == NAME
    assert meta["provenance"]["source"] == f"timm/{NAME}"
    for status, _, error in (unknown, other, empty):
        assert status == 2
        assert error.count("\n") == 1
    assert unknown[2].startswith("error: timm/empty: config.json not found; pass --model NAME")
    assert other[2].startswith(f"error: timm/{OTHER}: neither a path nor a repository of the Hugging Face Hub")
    assert empty[2] == "error: timm/empty: weight file not found; expected model.safetensors or pytorch_model.bin\n"
    assert not (tmp_path / "two").exists()


def test_error_without_network_suggests_file(script, tmp_path):
    ((status, _, error),) = run_commands(script, tmp_path, [[f"timm/{NAME}", "--out", "ckpt"]], HF_HUB_OFFLINE="1")
    assert status == 2
    assert re.fullmatch(
        rf"error: timm/{NAME}: cannot download: .*; without a network, pass the path of a file or directory\n", error
    ), error

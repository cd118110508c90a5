"""Weights from the Hugging Face Hub: the real client with a local server."""

import hashlib
import http.server
import json
import re
import threading

import pytest
from safetensors.numpy import save

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.convert import hub
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


def test_other_repositories_are_rejected():
    with pytest.raises(
        tc.InputError, match="hf-hub:facebook/deit-small: expected a repository of timm; use hf-hub:timm/NAME"
    ):
        hub.repository("hf-hub:facebook/deit-small")


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
    assert unknown[2].startswith("error: unknown model 'empty'")
    assert other[2].startswith(f"error: timm/{OTHER}: cannot download: ")
    assert empty[2] == "error: timm/empty: weight file not found; expected model.safetensors or pytorch_model.bin\n"
    assert not (tmp_path / "two").exists()


def test_error_without_network_suggests_file(script, tmp_path):
    ((status, _, error),) = run_commands(script, tmp_path, [[f"timm/{NAME}", "--out", "ckpt"]], HF_HUB_OFFLINE="1")
    assert status == 2
    assert re.fullmatch(
        rf"error: timm/{NAME}: cannot download: .*; without a network, pass the path of a file\n", error
    ), error

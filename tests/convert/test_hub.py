"""WeightFile from the hub: the real client against a server on this machine."""

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
def test_what_names_a_repository(source, repo):
    assert hub.repository(source) == repo


def test_a_file_comes_before_a_repository(tmp_path, monkeypatch):
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "x.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert hub.repository("timm/x.pth") is None
    assert hub.repository("hf-hub:timm/x.pth") == "timm/x.pth"


def test_other_repositories_are_refused():
    with pytest.raises(
        tc.InputError, match="cannot use 'hf-hub:facebook/deit-small': the hub's weights that fit are those of timm"
    ):
        hub.repository("hf-hub:facebook/deit-small")


@pytest.fixture(scope="module")
def served():
    """The address of a hub that has the weights of one model, and those."""
    import jax
    import numpy as np

    model = models.create_model(NAME)
    rng = np.random.default_rng(0)
    shapes = models.variable_shapes(model)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32) * 0.02, shapes)
    content = save(tc.convert.to_torch(variables, model))

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            found = re.fullmatch(rf"/timm/({NAME}|empty)/resolve/main/(.+)", self.path)
            if not found or found[1] == "empty" or found[2] != "model.safetensors":
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if found else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
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
answers = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    answers.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


def answers(script, home, calls, **variables):
    """Status, output and errors of the command with each of these arguments, all in one process."""
    (home / "calls.py").write_text(CALLS)
    done = script(
        str(home / "calls.py"), json.dumps(calls), cwd=home, HF_HOME=str(home / "hf"), HF_HUB_DISABLE_PROGRESS_BARS="1",
        **variables,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_repository_is_converted_and_what_is_not_there_is_one_line(script, served, tmp_path):
    found, unknown, other, empty = answers(
        script,
        tmp_path,
        [
            [f"hf-hub:timm/{NAME}", "--out", "ckpt", "--no-parity"],
            ["timm/empty", "--out", "two"],
            [f"hf-hub:timm/{OTHER}", "--out", "two"],
            ["timm/empty", "--model", NAME, "--out", "two"],
        ],
        HF_ENDPOINT=served[0],
    )
    assert found[0] == 0, found[2]
    digest = hashlib.sha256(served[1]).hexdigest()
    assert f"source      timm/{NAME}, sha256 {digest}" in found[1].splitlines()
    model, _, meta = tc.load(tmp_path / "ckpt")
    assert model.variant == NAME
    assert meta["provenance"]["source"] == f"timm/{NAME}"
    for status, _, error in (unknown, other, empty):
        assert status == 2
        assert error.count("\n") == 1
    assert unknown[2].startswith("error: unknown model 'empty'")
    assert other[2].startswith(f"error: cannot download 'timm/{OTHER}': ")
    assert empty[2] == "error: 'timm/empty' holds none of model.safetensors, pytorch_model.bin\n"
    assert not (tmp_path / "two").exists()


def test_without_a_network_a_file_is_advised(script, tmp_path):
    ((status, _, error),) = answers(script, tmp_path, [[f"timm/{NAME}", "--out", "ckpt"]], HF_HUB_OFFLINE="1")
    assert status == 2
    assert re.fullmatch(rf"error: cannot download 'timm/{NAME}': .*give the path of a file\)\n", error), error

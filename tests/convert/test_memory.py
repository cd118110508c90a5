"""Peak memory of conversions."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tcvit_jax import models
from tcvit_jax.convert import to_torch
from tests.convert import cases

MEASURE = """
import sys
from tcvit_jax.convert.command import to_checkpoint
import jax, orbax.checkpoint, tcvit_jax.convert.transformers
jax.devices()
if sys.argv[2] != "safetensors":
    import torch

def kilobytes(key):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(key)))

before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
to_checkpoint(sys.argv[1], sys.argv[3], "vit_base_patch16_224", compare=False)
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.fixture(scope="module")
def tensors():
    model = models.create_model("vit_base_patch16_224")
    return to_torch(cases.random_variables(model, scale=0.02), model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one file", "five files", "torch"])
def test_peak_is_below_twice_the_size_of_the_file(script, tensors, tmp_path, request, kind):
    """Measured: 1.25 times for `.safetensors` and 1.4 times for torch, which includes 70 MB of JAX's own."""
    if kind == "torch":
        torch = request.getfixturevalue("torch")
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, tmp_path / "w.pth")
        source = tmp_path / "w.pth"
    else:
        source = tmp_path / "source"
        source.mkdir()
        (source / "config.json").write_text("{}")
        names = [list(part) for part in np.array_split(sorted(tensors), 5)] if kind == "five files" else [list(tensors)]
        weight_map = {name: f"{index}.safetensors" for index, part in enumerate(names) for name in part}
        for index, part in enumerate(names):
            save_file({name: tensors[name] for name in part}, source / f"{index}.safetensors")
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "measure.py").write_text(MEASURE)
    result = script(
        str(tmp_path / "measure.py"), str(source), "torch" if kind == "torch" else "safetensors", str(tmp_path / "ckpt")
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2 * sum(value.nbytes for value in tensors.values())

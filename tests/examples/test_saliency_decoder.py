"""The example of a decoder against a float64 reference from the definition of a transposed convolution."""

import numpy as np
from safetensors.numpy import save_file

from tcvit_jax.tasks.decoder import load_decoder

NAME = "examples.saliency_decoder:SaliencyDecoder"


def torch_tensors(width, widths=(256, 128, 64)):
    """Return random tensors under the names and in the layout of torch."""
    rng = np.random.default_rng(0)
    tensors = {}
    for index, (size, target) in enumerate(zip((width, *widths[:-1]), widths, strict=True), 1):
        tensors[f"decoder.upconv{index}.weight"] = rng.normal(size=(size, target, 4, 4)) / (2 * size**0.5)
        tensors[f"decoder.upconv{index}.bias"] = rng.normal(size=target)
        tensors[f"decoder.bn{index}.weight"] = rng.normal(1, 0.1, size=target)
        tensors[f"decoder.bn{index}.bias"] = rng.normal(size=target)
        tensors[f"decoder.bn{index}.running_mean"] = rng.normal(size=target)
        tensors[f"decoder.bn{index}.running_var"] = rng.uniform(0.5, 2, size=target)
    tensors["decoder.final_conv.weight"] = rng.normal(size=(1, widths[-1], 1, 1)) / 8
    tensors["decoder.final_conv.bias"] = rng.normal(size=1)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def reference(x, tensors):
    """Decode features `[h, w, D]` in float64: every input pixel adds its kernel to the output, one pixel of which is
    then removed on each side."""
    for index in (1, 2, 3):
        weight = tensors[f"decoder.upconv{index}.weight"].astype(np.float64)
        rows, columns, _ = x.shape
        y = np.zeros((2 * rows + 2, 2 * columns + 2, weight.shape[1]))
        for i in range(rows):
            for j in range(columns):
                y[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("d,dokl->klo", x[i, j], weight)
        y = y[1:-1, 1:-1] + tensors[f"decoder.upconv{index}.bias"]
        norm = {
            part: tensors[f"decoder.bn{index}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        y = (y - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
        x = np.maximum(y, 0)
    scores = (
        x @ tensors["decoder.final_conv.weight"][0, :, 0, 0].astype(np.float64) + tensors["decoder.final_conv.bias"]
    )
    return 1 / (1 + np.exp(-scores))


def test_decoder_equals_a_reference(tmp_path):
    tensors = torch_tensors(5)
    save_file(tensors, tmp_path / "decoder.safetensors")
    decoder = load_decoder(NAME, str(tmp_path / "decoder.safetensors"))
    assert decoder.map_shape((2, 3), 5) == (16, 24, 1)
    features = np.random.default_rng(1).normal(size=(2, 2, 3, 5)).astype(np.float32)
    actual = np.asarray(decoder.module.apply(decoder.variables, features))
    for row, image in zip(actual, features, strict=True):
        np.testing.assert_allclose(row[..., 0], reference(image.astype(np.float64), tensors), atol=2e-5)

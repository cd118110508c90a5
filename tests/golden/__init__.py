"""Reference outputs of published code, and the deterministic weights and images that they were computed from.

`gtp.npz` and `lvvit.npz` come from the official GTP-ViT code (timm 0.9.2, torch 2.13, CPU); `timm.npz`, `photos.npz`
and `timm_zoo.json` come from timm 1.0.31; `transformers.npz` comes from transformers 5.24 (torch 2.14, CPU), and
`families.npz` from both. The
archives contain a JSON string `meta` with the configurations, the names and shapes of the state dicts, and the cases.
`timm_intermediates.npz` contains the tokens after the first and the last block of three cases of `timm.npz`, as
`forward_intermediates` of timm 1.0.31 returns them for the first image. `photos.npz` contains the outputs of timm's
evaluation transform for the two photos of scikit-learn. `augment.npz` contains the outputs of the training transforms of
timm 1.0.31 and torchvision 0.29, on Pillow 13.0, for small images.
"""

import json
import zlib
from pathlib import Path

import numpy as np


def read(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Return `meta` and the arrays of `name.npz`."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return json.loads(str(file["meta"])), {key: file[key] for key in file if key != "meta"}


TOKENS = (
    "pos_embed", "cls_token", "dist_token", "reg_token", "position_embeddings", "position_embedding.weight",
    "distillation_token", "register_tokens", "class_embedding", "probe", "latent",
)  # fmt: skip
PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value", "in_proj")


def weight(name: str, shape: list[int], seed: int) -> np.ndarray:
    """Return the tensor of a state-dict name, which does not depend on the platform."""
    z = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.2 * np.abs(z)
    elif name.endswith("running_mean"):
        value = 0.1 * z
    elif name.endswith(TOKENS):
        value = 0.3 * z
    elif name.endswith(("gamma", "gamma_1", "gamma_2", "lambda1")):
        value = 0.5 + 0.2 * z
    elif len(shape) == 1:
        value = 1 + 0.1 * z if name.endswith("weight") else 0.05 * z
    else:
        value = (1.5 if any(part in name for part in PROJECTIONS) else 0.8) * z / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def state_dict(shapes: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """Return all tensors of a configuration."""
    return {name: weight(name, shape, seed) for name, shape in shapes.items()}


def images(batch: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Return smooth random images, `[batch, height, width, 3]` float32."""
    z = np.random.default_rng([seed, 12345]).standard_normal((batch, 3, *size))
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1]))
    x = np.real(np.fft.ifft2(np.fft.fft2(z) / (0.02 + frequency)))
    x = (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
    return np.transpose(x, (0, 2, 3, 1)).astype(np.float32)

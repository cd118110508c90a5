"""Parameter tables of the architectures."""

from __future__ import annotations

from tcvit_jax.models.layouts import CONV, HEADS_OUT, LINEAR, QKV_BIAS, QKV_KERNEL, SAME, Layout
from tcvit_jax.models.parameters import Layer, Parameter, ParameterTable, Role, Tensors

# Weight file formats. TIMM is also the format of DeiT, DINO, MAE and TokenLabeling. AUGREG is the .npz format of "How
# to train your ViT?", written by google-research/vision_transformer.
TIMM, AUGREG = "timm", "AugReg"

_BLOCK = "Transformer/encoderblock_{block}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"


def _files(timm: str, layout: Layout = SAME, augreg: str | None = None) -> dict[str, Tensors]:
    """Return the timm tensor of a variable and, if any, its AugReg tensor, which has the layout of Flax."""
    files = {TIMM: Tensors((timm,), layout)}
    return files if augreg is None else {**files, AUGREG: Tensors((augreg,))}


def _norm(path: str, layer: Layer, timm: str, augreg: str | None = None) -> tuple[Parameter, ...]:
    """Return the rows of a normalization layer: scale and bias."""
    scale, bias = (None, None) if augreg is None else (f"{augreg}/scale", f"{augreg}/bias")
    return (
        Parameter(f"{path}/scale", "norm", layer, files=_files(f"{timm}.weight", augreg=scale)),
        Parameter(f"{path}/bias", "norm", layer, files=_files(f"{timm}.bias", augreg=bias)),
    )


def _kernel_and_bias(
    path: str,
    layer: Layer,
    timm: str,
    augreg: str | None = None,
    *,
    roles: tuple[Role, Role] = ("kernel", "bias"),
    mesh_axis: int = -1,
    layout: Layout = LINEAR,
) -> tuple[Parameter, ...]:
    """Return the rows of a linear layer or convolution."""
    kernel, bias = (None, None) if augreg is None else (f"{augreg}/kernel", f"{augreg}/bias")
    return (
        Parameter(f"{path}/kernel", roles[0], layer, True, mesh_axis, _files(f"{timm}.weight", layout, kernel)),
        Parameter(f"{path}/bias", roles[1], layer, files=_files(f"{timm}.bias", augreg=bias)),
    )


def _classifier(path: str, augreg: str | None = None) -> tuple[Parameter, ...]:
    """Return the rows of a classifier.

    The input features are sharded, because the number of classes may not be divisible by the mesh axis.
    """
    return _kernel_and_bias(path, "head", path, augreg, roles=("classifier", "classifier"), mesh_axis=-2)


def _attention_pool(path: str) -> tuple[Parameter, ...]:
    """Return the rows of attention pooling."""
    layers = ("q", "kv", "proj", "mlp/fc1", "mlp/fc2")
    return (
        Parameter(f"{path}/latent", "token", "head", files=_files(f"{path}.latent")),
        *_norm(f"{path}/norm", "head", f"{path}.norm"),
        *(
            row
            for name in layers
            for row in _kernel_and_bias(f"{path}/{name}", "head", f"{path}.{name}".replace("/", "."))
        ),
    )


_VIT_ROWS = (
    *_kernel_and_bias("patch_embed", "embedding", "patch_embed.proj", "embedding", layout=CONV),
    Parameter("cls_token", "token", "embedding", files=_files("cls_token", augreg="cls")),
    Parameter("dist_token", "token", "embedding", files=_files("dist_token")),
    Parameter("reg_token", "token", "embedding", files=_files("reg_token")),
    Parameter(
        "pos_embed", "positions", "embedding", mesh_axis=-1,
        files=_files("pos_embed", augreg="Transformer/posembed_input/pos_embedding"),
    ),
    *_norm("norm_pre", "embedding", "norm_pre"),
    *_norm("blocks_{block}/norm1", "block", "blocks.{block}.norm1", f"{_BLOCK}/LayerNorm_0"),
    Parameter(
        "blocks_{block}/attn/qkv/kernel", "kernel", "block", True, -1,
        {
            **_files("blocks.{block}.attn.qkv.weight", LINEAR),
            AUGREG: Tensors(tuple(f"{_ATTENTION}/{part}/kernel" for part in ("query", "key", "value")), QKV_KERNEL),
        },
    ),
    Parameter(
        "blocks_{block}/attn/qkv/bias", "bias", "block",
        files={
            **_files("blocks.{block}.attn.qkv.bias"),
            AUGREG: Tensors(tuple(f"{_ATTENTION}/{part}/bias" for part in ("query", "key", "value")), QKV_BIAS),
        },
    ),
    Parameter("blocks_{block}/attn/qkv/q_bias", "bias", "block", files=_files("blocks.{block}.attn.q_bias")),
    Parameter("blocks_{block}/attn/qkv/v_bias", "bias", "block", files=_files("blocks.{block}.attn.v_bias")),
    *_norm("blocks_{block}/attn/norm", "block", "blocks.{block}.attn.norm"),
    *_norm("blocks_{block}/attn/q_norm", "block", "blocks.{block}.attn.q_norm"),
    *_norm("blocks_{block}/attn/k_norm", "block", "blocks.{block}.attn.k_norm"),
    Parameter(
        "blocks_{block}/attn/proj/kernel", "kernel", "block", True, -1,
        {
            **_files("blocks.{block}.attn.proj.weight", LINEAR),
            AUGREG: Tensors((f"{_ATTENTION}/out/kernel",), HEADS_OUT),
        },
    ),
    Parameter(
        "blocks_{block}/attn/proj/bias", "bias", "block",
        files=_files("blocks.{block}.attn.proj.bias", augreg=f"{_ATTENTION}/out/bias"),
    ),
    Parameter("blocks_{block}/ls1/gamma", "scale", "block", files=_files("blocks.{block}.ls1.gamma")),
    *_norm("blocks_{block}/norm2", "block", "blocks.{block}.norm2", f"{_BLOCK}/LayerNorm_2"),
    *_norm("blocks_{block}/mlp/norm", "block", "blocks.{block}.mlp.norm"),
    *_kernel_and_bias("blocks_{block}/mlp/fc1", "block", "blocks.{block}.mlp.fc1", f"{_BLOCK}/MlpBlock_3/Dense_0"),
    *_kernel_and_bias("blocks_{block}/mlp/fc2", "block", "blocks.{block}.mlp.fc2", f"{_BLOCK}/MlpBlock_3/Dense_1"),
    Parameter("blocks_{block}/ls2/gamma", "scale", "block", files=_files("blocks.{block}.ls2.gamma")),
    *_norm("norm", "head", "norm", "Transformer/encoder_norm"),
    *_norm("fc_norm", "head", "fc_norm"),
    *_attention_pool("attn_pool"),
    *_classifier("head", "head"),
    *_classifier("head_dist"),
)  # fmt: skip

VIT = ParameterTable("ViT", _VIT_ROWS)


def _conv_and_norm(index: int) -> tuple[Parameter, ...]:
    """Return the rows of one convolution of the LV-ViT stem and its batch norm."""
    conv, norm = f"conv{index}", f"bn{index}"
    return (
        Parameter(
            f"patch_embed/{conv}/kernel", "kernel", "embedding", True, files=_files(f"patch_embed.{conv}.weight", CONV)
        ),
        *_norm(f"patch_embed/{norm}", "embedding", f"patch_embed.{norm}"),
        *(
            Parameter(
                f"patch_embed/{norm}/{moment}", "statistic", "embedding",
                files=_files(f"patch_embed.{norm}.running_{moment}"),
            )
            for moment in ("mean", "var")
        ),
    )  # fmt: skip


LVVIT = ParameterTable(
    "LV-ViT",
    (
        *_VIT_ROWS,
        *_conv_and_norm(1),
        *_conv_and_norm(2),
        *_conv_and_norm(3),
        *_kernel_and_bias("patch_embed/proj", "embedding", "patch_embed.proj", layout=CONV),
        *_classifier("aux_head"),
    ),
)

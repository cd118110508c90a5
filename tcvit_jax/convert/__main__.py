"""Convert published weights to a checkpoint, or export a checkpoint for timm or transformers.

python -m tcvit_jax.convert deit_small_patch16_224.safetensors --model deit_small_patch16_224 --out ckpt
python -m tcvit_jax.convert hf-hub:timm/deit_small_patch16_224.fb_in1k --out ckpt
python -m tcvit_jax.convert teacher_checkpoint.pth --prefix backbone. --model vit_small_patch14_dinov2 --out ckpt
python -m tcvit_jax.convert facebook/dinov2-small --out ckpt
python -m tcvit_jax.convert runs/deit_s_gtp --out deit_s_gtp.safetensors
python -m tcvit_jax.convert runs/deit_s_gtp --format transformers --out deit_s_gtp
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from tcvit_jax.command import Command, PathArgument

# Formats of exports, and dtypes of converted variables.
FORMATS = ("timm", "transformers")
DTYPES = ("float32", "keep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source",
        action=PathArgument,
        help="weight file (.safetensors, .npz or torch), directory of transformers or timm, hf-hub:ORG/NAME, or a "
        "checkpoint directory to export",
    )
    parser.add_argument(
        "--out",
        required=True,
        action=PathArgument,
        help="new checkpoint directory, or new .safetensors file or directory of transformers to export to",
    )
    parser.add_argument(
        "--format",
        help="export a checkpoint: timm (a .safetensors file) or transformers (a directory); by default timm for --out "
        "FILE.safetensors",
    )
    parser.add_argument(
        "--model",
        help="timm name, with or without tag, of a weight file; by default that of hf-hub:timm/NAME or of config.json",
    )
    parser.add_argument(
        "--img-size",
        help="image size in pixels, 384 or 384x224 (height x width); by default that of the pretrained model",
    )
    parser.add_argument("--num-classes", type=int, help="number of classes; by default that of the pretrained model")
    parser.add_argument("--in-chans", type=int, help="number of channels of the images; by default that of the source")
    parser.add_argument("--patch-size", type=int, help="size of the patches in pixels; by default that of the source")
    parser.add_argument(
        "--adapt-patch-embed",
        action="store_true",
        help="adapt the kernel of the patch embedding to --in-chans and --patch-size, as timm does",
    )
    parser.add_argument(
        "--dtype",
        default=DTYPES[0],
        help="float32, or keep for the dtype of float16 and bfloat16 tensors",
    )
    parser.add_argument("--new-head", action="store_true", help="replace the classifier with a zero-initialized one")
    parser.add_argument(
        "--entry",
        help="key of the tensors in a training checkpoint; by default the first of state_dict_ema, model_ema, "
        "state_dict, model, network, teacher and student",
    )
    parser.add_argument(
        "--prefix",
        help="read only the tensors whose name starts with PREFIX, without it: backbone.; by default all tensors",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        metavar="PATTERN",
        help="leave out the tensors that match this shell pattern: 'projector.*'; may be repeated; by default none",
    )
    parser.add_argument(
        "--grid", help="patch grid of the position embeddings in the file, 16x8 (height x width); by default square"
    )
    parser.add_argument(
        "--photo",
        action=PathArgument,
        help="image for the comparison with timm; by default a sample photo of scikit-learn",
    )
    parser.add_argument("--no-parity", action="store_true", help="skip the comparison with timm")


def run(flags: argparse.Namespace) -> None:
    """Convert to a checkpoint, or export one if `--out` is a `.safetensors` file, and print the report."""
    from tcvit_jax import lock
    from tcvit_jax.report.progress import SlowSteps

    with lock.hold(lock.beside(flags.out), flags.out, "choose another --out") as notice, SlowSteps() as progress:
        if notice:
            print(notice)
        report = _convert(flags, progress)
    print(report)


def _convert(flags: argparse.Namespace, progress: Callable[[str], object]) -> object:
    """Convert or export, and return what to print. `progress` is called with the name of each step when it starts."""
    from tcvit_jax.convert.command import to_checkpoint, to_safetensors
    from tcvit_jax.errors import unknown

    is_file = flags.out.endswith(".safetensors")
    if flags.format not in (None, *FORMATS):
        raise unknown("--format", flags.format, FORMATS)
    if flags.dtype not in DTYPES:
        raise unknown("--dtype", flags.dtype, DTYPES)
    if is_file or flags.format:
        _check_export(flags, is_file)
    if flags.format == "transformers":
        from tcvit_jax.convert.export import to_transformers

        return to_transformers(flags.source, flags.out, flags.entry, progress=progress)
    if is_file:
        return to_safetensors(flags.source, flags.out, flags.entry, progress=progress)
    overrides = {
        "img_size": _parse_size("img-size", flags.img_size), "num_classes": flags.num_classes,
        "in_chans": flags.in_chans, "patch_size": flags.patch_size,
    }  # fmt: skip
    return to_checkpoint(
        flags.source, flags.out, flags.model, new_head=flags.new_head, entry=flags.entry,
        prefix=flags.prefix or "", ignore=flags.ignore or (),
        overrides={key: value for key, value in overrides.items() if value is not None},
        keep_dtype=flags.dtype == "keep", adapt_patch_embed=flags.adapt_patch_embed,
        compare=not flags.no_parity, photo=flags.photo, grid=_parse_size("grid", flags.grid), progress=progress,
    )  # fmt: skip


def _check_export(flags: argparse.Namespace, is_file: bool) -> None:
    """Check that the options of an export exclude those of a conversion, and that `--out` fits the format."""
    from tcvit_jax.errors import conflicts, requires

    if flags.format and is_file != (flags.format == "timm"):
        kind = "FILE.safetensors" if flags.format == "timm" else "DIR"
        raise requires(f"--format {flags.format}", f"--out {kind}")
    values = ("model", "img_size", "num_classes", "in_chans", "patch_size", "grid", "photo")
    names = [name for name in values if getattr(flags, name) is not None]
    names += [name for name in ("new_head", "adapt_patch_embed", "prefix", "ignore") if getattr(flags, name)]
    names += ["dtype"] if flags.dtype != DTYPES[0] else []
    if names:
        option = f"--{names[0].replace('_', '-')}"
        raise conflicts(option, f"--out {flags.out}", "a checkpoint is exported unchanged")


def _parse_size(flag: str, text: str | None) -> tuple[int, int] | None:
    from tcvit_jax.convert.files import parse_size
    from tcvit_jax.errors import out_of_range

    size = None if text is None else parse_size(text)
    if text is not None and size is None:
        raise out_of_range(f"--{flag}", text, "SIZE or HEIGHTxWIDTH, such as 24 or 24x16")
    return size


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.convert")

if __name__ == "__main__":
    sys.exit(main())

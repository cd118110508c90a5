"""Convert published weights to a checkpoint, or export a checkpoint to a weight file for timm.

python -m tcvit_jax.convert deit_small_patch16_224.safetensors --model deit_small_patch16_224 --out ckpt
python -m tcvit_jax.convert hf-hub:timm/deit_small_patch16_224.fb_in1k --out ckpt
python -m tcvit_jax.convert teacher_checkpoint.pth --prefix backbone. --model vit_small_patch14_dinov2 --out ckpt
python -m tcvit_jax.convert runs/deit_s_gtp --out deit_s_gtp.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from tcvit_jax.command import Command, PathArgument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "source",
        action=PathArgument,
        help="weight file (.safetensors, .npz or torch), hf-hub:timm/NAME, or a checkpoint directory",
    )
    parser.add_argument(
        "--out",
        required=True,
        action=PathArgument,
        help="new checkpoint directory, or new .safetensors file to export to",
    )
    parser.add_argument("--model", help="timm name, with or without tag; by default that of hf-hub:timm/NAME")
    parser.add_argument(
        "--img-size",
        help="image size in pixels, 384 or 384x224 (height x width); by default that of the pretrained model",
    )
    parser.add_argument("--num-classes", type=int, help="number of classes; by default that of the pretrained model")
    parser.add_argument("--new-head", action="store_true", help="replace the classifier with a zero-initialized one")
    parser.add_argument(
        "--entry",
        help="key of the tensors in a training checkpoint; by default the first of state_dict_ema, model_ema, "
        "state_dict and model",
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
    from tcvit_jax.errors import conflicts

    if flags.out.endswith(".safetensors"):
        names = [
            name for name in ("model", "img_size", "num_classes", "grid", "photo") if getattr(flags, name) is not None
        ]
        names += [name for name in ("new_head", "prefix", "ignore") if getattr(flags, name)]
        if names:
            option = f"--{names[0].replace('_', '-')}"
            raise conflicts(option, f"--out {flags.out}", "a checkpoint is exported unchanged")
        return to_safetensors(flags.source, flags.out, flags.entry, progress=progress)
    overrides = {"img_size": _parse_size("img-size", flags.img_size), "num_classes": flags.num_classes}
    return to_checkpoint(
        flags.source, flags.out, flags.model, new_head=flags.new_head, entry=flags.entry,
        prefix=flags.prefix or "", ignore=flags.ignore or (),
        overrides={key: value for key, value in overrides.items() if value is not None},
        compare=not flags.no_parity, photo=flags.photo, grid=_parse_size("grid", flags.grid), progress=progress,
    )  # fmt: skip


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

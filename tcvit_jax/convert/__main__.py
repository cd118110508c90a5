"""Published weights to a checkpoint of ours, and a checkpoint of ours to weights for timm.

python -m tcvit_jax.convert deit_small_patch16_224.safetensors --model deit_small_patch16_224 --out ckpt
python -m tcvit_jax.convert hf-hub:timm/deit_small_patch16_224.fb_in1k --out ckpt
python -m tcvit_jax.convert runs/deit_s_gtp --out deit_s_gtp.safetensors
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("source", help=".safetensors, .npz, .pth, hf-hub:timm/NAME, or a checkpoint directory")
    parser.add_argument("--out", required=True, help="a new directory; of a checkpoint, a new .safetensors file")
    parser.add_argument("--model", help="timm's name, with or without tag; the hub's repositories bring theirs")
    parser.add_argument(
        "--img-size", help="another resolution, 384 or 384x224 (height, width): positions are resampled"
    )
    parser.add_argument("--num-classes", type=int, help="classes of the model, where they are not those of its name")
    parser.add_argument("--new-head", action="store_true", help="leave out the classifier; the model's starts at zero")
    parser.add_argument(
        "--entry", help="of a training checkpoint, which tensors: state_dict_ema, state_dict, model, ..."
    )
    parser.add_argument("--grid", help="patches that the file has positions for, where they are no square: 16x8")
    parser.add_argument("--photo", help="an image to compare with timm on; by default one that scikit-learn brings")
    parser.add_argument("--no-parity", action="store_true", help="do not compare with timm, where it is installed")


def run(flags: argparse.Namespace) -> None:
    """Convert in the direction that `--out` says, and print the account."""
    from tcvit_jax.convert.command import to_checkpoint, to_safetensors
    from tcvit_jax.errors import InputError

    if flags.out.endswith(".safetensors"):
        given = {name: getattr(flags, name) for name in ("model", "img_size", "num_classes", "grid", "photo")}
        unused = [name for name, value in given.items() if value is not None] + ["new_head"] * flags.new_head
        if unused:
            raise InputError(
                f"--{unused[0].replace('_', '-')} is not for writing {flags.out!r}: a model is written as it is"
            )
        print(to_safetensors(flags.source, flags.out, flags.entry))
    else:
        overrides = {"img_size": _sides("img-size", flags.img_size), "num_classes": flags.num_classes}
        print(
            to_checkpoint(
                flags.source, flags.out, flags.model, new_head=flags.new_head, entry=flags.entry,
                overrides={key: value for key, value in overrides.items() if value is not None},
                compare=not flags.no_parity, photo=flags.photo, grid=_sides("grid", flags.grid),
            )
        )  # fmt: skip


def _sides(flag: str, text: str | None) -> tuple[int, int] | None:
    from tcvit_jax.convert.files import parse_size
    from tcvit_jax.errors import InputError

    found = None if text is None else parse_size(text)
    if text is not None and found is None:
        raise InputError(f"--{flag} {text!r} should be like 24 or 24x16, height and width")
    return found


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.convert")

if __name__ == "__main__":
    sys.exit(main())

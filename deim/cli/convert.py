"""Convert checkpoints between the official, detrex, Hugging Face and native formats.

    deim convert deim_dfine_hgnetv2_s_coco_120e.pth deim_dfine_s.pth
    deim convert output/dfine_s_coco/model_best.pth dfine_s --to hf

Without --to, the native format is written. A backbone checkpoint is converted to a file for model.backbone.weights.
"""

import argparse

from deim.conversion import NATIVE, TARGETS, IdentifiedCheckpoint, convert, convert_backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint file, or directory of a Hugging Face model")
    parser.add_argument("out", help="output file; with --to hf, output directory")
    parser.add_argument("--to", choices=TARGETS, default=NATIVE, help="output format; default: native")
    parser.add_argument(
        "--from", dest="source_format", choices=("auto", *TARGETS), default="auto", help="default: detected"
    )
    parser.add_argument("--recipe", help="recipe name, if it cannot be detected")
    parser.add_argument("--raw", action="store_true", help="use the raw weights if the file also has EMA weights")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input size for the anchors stored in official checkpoints; default: that of the recipe",
    )


def run(args: argparse.Namespace) -> None:
    alone = convert_backbone(args.source, args.out) if args.to == NATIVE and args.recipe is None else None
    if alone is not None:
        more = f", with {len(alone.unused)} additional tensors" if alone.unused else ""
        print(f"{args.source} is the backbone {alone.config}{more}")
        print(f"wrote {args.out}. Use it with model.backbone.weights={args.out}")
        return
    _report(convert(args.source, args.out, args.to, args.source_format, args.recipe, not args.raw, args.image_size))
    print(f"wrote {args.out}")


def _report(found: IdentifiedCheckpoint) -> None:
    count = sum(value.numel() for value in found.model.parameters())
    classes = f"{found.config.model.num_classes} classes"
    if found.classes:
        classes += f" ({', '.join([name for name in found.classes if name][:3])}, ...)"
    source_format = found.source_format.title if found.source_format else "native"
    print(f"{found.stored.path}: format {source_format}, {count:,} parameters")
    print(f"recipe {found.recipe}, {classes}, in the form for {found.form}")
    if found.equivalent_recipes:
        print(f"recipes with the same model: {', '.join(found.equivalent_recipes)}")

"""Convert checkpoints between the official, detrex, Hugging Face and native formats.

    deim convert deim_dfine_hgnetv2_s_coco_120e.pth deim_dfine_s.pth
    deim convert output/dfine_s_coco/model_best.pth dfine_s --to hf

Formats: native (deim), detrex, hf (Hugging Face); the others are those of the official code. Without --to, the native
format is written. A backbone checkpoint is converted to a file for model.backbone.weights.
"""

import argparse

from deim.conversion import NATIVE, TARGETS, IdentifiedCheckpoint, convert, convert_backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint file, or directory of a Hugging Face model")
    parser.add_argument("out", help="output file; with --to hf, output directory")
    parser.add_argument("--to", choices=TARGETS, default=NATIVE, help="output format; default: native")
    parser.add_argument(
        "--from",
        dest="source_format",
        choices=("auto", *TARGETS),
        default="auto",
        help="input format; default: detected",
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
    backbone = convert_backbone(args.source, args.out) if args.to == NATIVE and args.recipe is None else None
    if backbone is not None:
        extra = f", with {len(backbone.unused)} additional tensors" if backbone.unused else ""
        print(f"{args.source} is the backbone {backbone.config}{extra}")
        print(f"wrote {args.out}. Use it with model.backbone.weights={args.out}")
        return
    _report(convert(args.source, args.out, args.to, args.source_format, args.recipe, not args.raw, args.image_size))
    print(f"wrote {args.out}")


def _report(identified: IdentifiedCheckpoint) -> None:
    num_parameters = sum(value.numel() for value in identified.model.parameters())
    classes = f"{identified.config.model.num_classes} classes"
    if identified.classes:
        names = [name for name in identified.classes if name]
        classes += f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    layout = identified.source_format.title if identified.source_format else "native"
    print(f"{identified.stored.path}: format {layout}, {num_parameters:,} parameters")
    print(f"recipe {identified.recipe}, {classes}, in the form for {identified.form}")
    if identified.equivalent_recipes:
        print(f"recipes with the same model: {', '.join(identified.equivalent_recipes)}")

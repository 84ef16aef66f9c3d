"""Convert a checkpoint: official, detrex's, Hugging Face's or ours, in either direction.

    deim convert deim_dfine_hgnetv2_s_coco_120e.pth deim_dfine_s.pth
    deim convert output/dfine_s_coco/model_best.pth dfine_s --to hf

Without --to it writes our own layout. A backbone alone becomes a file for model.backbone.weights.
"""

import argparse

from deim.conversion import NATIVE, TARGETS, Identified, convert, convert_backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a file, or a folder of transformers")
    parser.add_argument("out", help="a file, or with --to hf a folder")
    parser.add_argument("--to", choices=TARGETS, default=NATIVE, help="default: this package's own layout")
    parser.add_argument(
        "--from", dest="source_format", choices=("auto", *TARGETS), default="auto", help="default: recognized"
    )
    parser.add_argument("--recipe", help="name of the recipe, where it cannot be recognized")
    parser.add_argument("--raw", action="store_true", help="the trained weights, where the file has averaged ones too")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="for which official code stores anchors; default: the recipe's",
    )


def run(args: argparse.Namespace) -> None:
    alone = convert_backbone(args.source, args.out) if args.to == NATIVE and args.recipe is None else None
    if alone is not None:
        more = f", and {len(alone.left)} more tensors" if alone.left else ""
        print(f"{args.source} is the backbone {alone.config}{more}")
        print(f"wrote {args.out}: use it with model.backbone.weights={args.out}")
        return
    _report(convert(args.source, args.out, args.to, args.source_format, args.recipe, not args.raw, args.image_size))
    print(f"wrote {args.out}")


def _report(found: Identified) -> None:
    count = sum(value.numel() for value in found.model.parameters())
    classes = f"{found.config.model.num_classes} classes"
    if found.classes:
        classes += f" ({', '.join([name for name in found.classes if name][:3])}, ...)"
    print(f"{found.stored.path} is {found.origin.title if found.origin else 'of this package'}: {count:,} parameters")
    print(f"recipe {found.recipe}, {classes}, in the form for {found.form}")
    if found.others:
        print(f"the same model is trained by {', '.join(found.others)}")

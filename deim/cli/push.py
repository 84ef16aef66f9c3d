"""Publish a model on the Hugging Face Hub, with a model card.

    deim push output/deim_dfine_s_coco user/model --image street.jpg
    deim push output/deim_dfine_s_coco/model_best.pth --folder for_the_hub

Uploads model.safetensors, config.json and README.md. Predictor.from_pretrained("user/model") loads them. With --folder, the
files are written to a folder; without a repository, nothing is uploaded. Images of the dataset are never uploaded.

The upload requires pip install 'deim[hub]', and a token with write access: hf auth login, or HF_TOKEN.
"""

import argparse
import tempfile
from pathlib import Path

from deim.checkpoint.hub import check_repository_name, upload_folder
from deim.errors import ConfigError
from deim.reporting.publication import write_model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="directory of a run, or a checkpoint")
    parser.add_argument("repository", nargs="?", help="user/model; created if it does not exist")
    parser.add_argument("--folder", help="write the files to this directory, and keep them")
    parser.add_argument("--image", help="image on which the model card shows the model")
    parser.add_argument(
        "--license", help="license of the weights; default: apache-2.0, or other for models on weights of DINOv3"
    )
    parser.add_argument("--private", action="store_true", help="create a private repository")


def run(args: argparse.Namespace) -> None:
    if args.repository is None and args.folder is None:
        raise ConfigError("give a repository such as user/model, or --folder to write the files without uploading them")
    if args.repository is not None:
        check_repository_name(args.repository)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        name = args.repository or folder.resolve().name
        published = write_model_folder(args.source, folder, name, args.image, args.license)
        if args.folder is not None:
            print(f"wrote {published.checkpoint} to {folder}")
        if args.repository is not None:
            address = upload_folder(folder, published.files, args.repository, args.private)
            print(f"uploaded {published.checkpoint} to {address}")

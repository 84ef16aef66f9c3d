"""Packaging: the package ``deim``, with ``configs`` and ``projects`` inside the wheel."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


EXTRAS = {
    "detectron2": ["detectron2 @ git+https://github.com/facebookresearch/detectron2", "torchvision"],
    "detrex": [
        "detrex @ git+https://github.com/IDEA-Research/detrex",
        "setuptools<81",
        "wandb",
        "timm",
        "einops",
        "fairscale",
    ],
    "completion": ["argcomplete"],
    "clearml": ["clearml"],
    "comet": ["comet_ml>=3.44"],
    "coreml": ["torch>=2.8", "coremltools>=9"],
    "demo": ["gradio>=5"],
    "executorch": ["torch>=2.8", "executorch>=1.5"],
    # before 1.32, the float16 converter of ONNX Runtime writes files that it cannot open
    "export": ["torch>=2.8", "onnx", "onnxscript", "onnxruntime>=1.32"],
    "hub": ["huggingface_hub>=0.26"],
    "fiftyone": ["fiftyone>=1"],
    "litert": ["torch>=2.8", "litert-torch>=0.10", "ai-edge-litert>=2.3"],
    "mlflow": ["mlflow>=2"],
    "openvino": ["openvino"],
    "parquet": ["pyarrow"],
    "safetensors": [],  # a former extra: now always installed
    "slurm": ["submitit"],
    "timm": ["timm", "torchvision"],
    "track": ["trackers>=2.6"],
    "tune": ["optuna>=4"],
    "wandb": ["wandb"],
}
# PyPI refuses packages that depend on addresses; the release workflow sets this variable.
if os.environ.get("DEIM_FOR_PYPI"):
    EXTRAS = {name: needs for name, needs in EXTRAS.items() if not any(" @ " in need for need in needs)}


class BuildWithRecipes(build_py):
    """Copies configs and recipes into the built package; an editable install reads them from the checkout."""

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            for folder in ("configs", "projects"):
                target = Path(self.build_lib, "deim", folder)
                shutil.copytree(ROOT / folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="deim",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "deim/__init__.py").read_text(encoding="utf-8"))[1],
    description="DEIM and D-FINE real-time detection transformers for detectron2 and detrex",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="object detection, DETR, DEIM, D-FINE, detectron2, detrex, real-time",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_namespace_packages(include=["deim", "deim.*"]),
    # C kernels, compiled at first use
    package_data={"deim": ["py.typed"], "deim.layers.ops": ["*.c"]},
    entry_points={"console_scripts": ["deim = deim.cli:main"]},
    cmdclass={"build_py": BuildWithRecipes},
    # Editable install by a .pth file: a folder named deim in the current directory would shadow the default finder.
    options={"editable_wheel": {"mode": "compat"}},
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "scipy>=1.11",
        "opencv-python-headless>=4.8",
        "pillow>=10",
        "matplotlib>=3.8",
        # dependencies of detectron2 itself
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "omegaconf>=2.3",
        "hydra-core>=1.3",
        "pycocotools>=2.0.7",
        "faster-coco-eval>=1.6",
        "psutil>=5.9",
        "pyyaml>=6",
        "tqdm>=4.60",
        "cloudpickle>=2.2",
        "gdown>=6.3",  # some published weights are on Google Drive
        "safetensors>=0.4",  # the format of weights on Hugging Face
        "tabulate>=0.9",
        "termcolor>=2.3",
        "tensorboard>=2.14",
    ],
    extras_require=EXTRAS,
)

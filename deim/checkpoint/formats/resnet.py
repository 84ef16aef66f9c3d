"""Rules between ResNet names of other libraries and detectron2's names."""

from deim.checkpoint.renaming import Rule, rename

STAGES = range(1, 5)


def torchvision_resnet(external: str, native: str) -> list[Rule]:
    """Return the rules of torchvision's names, which timm and the DETR family share; ``external`` and ``native`` are
    prefixes."""
    blocks = [(f"{external}layer{i}.#", f"{native}res{i + 1}.#") for i in STAGES]
    return [
        rename(f"{external}conv1.weight", f"{native}stem.conv1.weight"),
        rename(f"{external}bn1.*", f"{native}stem.conv1.norm.*"),
        *(rename(f"{a}.conv#.weight", f"{b}.conv#.weight") for a, b in blocks),
        *(rename(f"{a}.bn#.*", f"{b}.conv#.norm.*") for a, b in blocks),
        *(rename(f"{a}.downsample.0.weight", f"{b}.shortcut.weight") for a, b in blocks),
        *(rename(f"{a}.downsample.1.*", f"{b}.shortcut.norm.*") for a, b in blocks),
    ]


def transformers_resnet(external: str, native: str) -> list[Rule]:
    """Return the rules of the names of Hugging Face ``transformers``; ``external`` and ``native`` are prefixes."""
    blocks = [(f"{external}encoder.stages.{i - 1}.layers.#", f"{native}res{i + 1}.#") for i in STAGES]
    convolutions = [(f"{a}.layer.{k}", f"{b}.conv{k + 1}") for a, b in blocks for k in range(3)]
    convolutions += [(f"{a}.shortcut", f"{b}.shortcut") for a, b in blocks]
    convolutions.append((f"{external}embedder.embedder", f"{native}stem.conv1"))
    return [
        *(rename(f"{a}.convolution.weight", f"{b}.weight") for a, b in convolutions),
        *(rename(f"{a}.normalization.*", f"{b}.norm.*") for a, b in convolutions),
    ]

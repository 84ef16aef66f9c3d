"""Rules between ResNet names of other libraries and detectron2's names."""

from deim.checkpoint.renaming import Rule, rename

STAGES = range(1, 5)


def torchvision_resnet(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of torchvision's names, which timm and the DETR family share; ``theirs`` and ``ours`` are
    prefixes."""
    blocks = [(f"{theirs}layer{i}.#", f"{ours}res{i + 1}.#") for i in STAGES]
    return [
        rename(f"{theirs}conv1.weight", f"{ours}stem.conv1.weight"),
        rename(f"{theirs}bn1.*", f"{ours}stem.conv1.norm.*"),
        *(rename(f"{a}.conv#.weight", f"{b}.conv#.weight") for a, b in blocks),
        *(rename(f"{a}.bn#.*", f"{b}.conv#.norm.*") for a, b in blocks),
        *(rename(f"{a}.downsample.0.weight", f"{b}.shortcut.weight") for a, b in blocks),
        *(rename(f"{a}.downsample.1.*", f"{b}.shortcut.norm.*") for a, b in blocks),
    ]


def transformers_resnet(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of the names of Hugging Face ``transformers``; ``theirs`` and ``ours`` are prefixes."""
    blocks = [(f"{theirs}encoder.stages.{i - 1}.layers.#", f"{ours}res{i + 1}.#") for i in STAGES]
    convolutions = [(f"{a}.layer.{k}", f"{b}.conv{k + 1}") for a, b in blocks for k in range(3)]
    convolutions += [(f"{a}.shortcut", f"{b}.shortcut") for a, b in blocks]
    convolutions.append((f"{theirs}embedder.embedder", f"{ours}stem.conv1"))
    return [
        *(rename(f"{a}.convolution.weight", f"{b}.weight") for a, b in convolutions),
        *(rename(f"{a}.normalization.*", f"{b}.norm.*") for a, b in convolutions),
    ]

"""Parameter groups defined by rules."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from deim.errors import ConfigError


def param_groups(
    model: nn.Module,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    backbone_layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a model for an optimizer.

    Args:
        model: its ``named_parameters`` are grouped.
        rules: {rule name: {"pattern": regular expression, option: value, ...}}. A parameter gets the options (``lr``,
            ``weight_decay`` ...) of the first rule whose pattern is found in its name, or else the optimizer's
            defaults.
        backbone_layer_decay: factor in (0, 1] between the learning rates of a block of the vision transformer in the
            backbone and of the next block (BEiT, arXiv 2106.08254). The learning rate of the rule is that of the part
            after the last block, and the embedding of the patches has the lowest one. None for equal learning rates.

    Returns:
        one group per rule that matches at least one parameter, then the remaining parameters; with
        ``backbone_layer_decay``, one group per rule and learning rate.

    Raises:
        ConfigError: if a rule has no pattern, or its pattern is not a valid regular expression. With
            ``backbone_layer_decay``: if it is out of range, the backbone has no vision transformer, or a rule of its
            parameters has no learning rate.
    """
    compiled = _compile_rules(rules or {})
    factor = _layer_factors(model, backbone_layer_decay)
    members: dict[tuple[str | None, float], list[nn.Parameter]] = {(name, 1.0): [] for name in [*compiled, None]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule_name = next((r for r, pattern in compiled.items() if pattern.search(name)), None)
            members.setdefault((rule_name, factor(name)), []).append(parameter)
    groups = []
    for (rule_name, scale), parameters in members.items():
        rule = rules[rule_name] if rules is not None and rule_name is not None else {}
        options = {key: value for key, value in rule.items() if key != "pattern"}
        if scale != 1 and "lr" not in options:
            raise ConfigError(
                "optimizer.params.backbone_layer_decay needs a learning rate for the backbone, but "
                f"{f'optimizer.params.rules.{rule_name} has no lr' if rule_name else 'no rule matches its parameters'}"
            )
        if scale != 1:
            options["lr"] *= scale
        if parameters:
            groups.append({"params": parameters, **options})
    return groups


def _compile_rules(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, re.Pattern]:
    compiled = {}
    for name, rule in rules.items():
        if "pattern" not in rule:
            raise ConfigError(f"optimizer.params.rules.{name} has no pattern")
        try:
            compiled[name] = re.compile(rule["pattern"])
        except re.error as error:
            raise ConfigError(f"optimizer.params.rules.{name}.pattern: {error}") from error
    return compiled


def _layer_factors(model: nn.Module, decay: float | None) -> Callable[[str], float]:
    """Return the function {name of a parameter: factor of its learning rate}."""
    if decay is None:
        return lambda name: 1.0
    if not 0 < decay <= 1:
        raise ConfigError(f"optimizer.params.backbone_layer_decay must be in (0, 1], got {decay}")
    prefix, count = _find_transformer(model)

    def factor(name: str) -> float:
        if not name.startswith(prefix):
            return 1.0
        match = re.match(r"blocks\.(\d+)\.", name[len(prefix) :])
        if match is None:
            is_after_blocks = name[len(prefix) :].startswith("norm.")
            return 1.0 if is_after_blocks else decay ** (count + 1)
        return decay ** (count - int(match[1]))

    return factor


def _find_transformer(model: nn.Module) -> tuple[str, int]:
    """Return the prefix of the names of the parameters of the backbone's vision transformer, and its number of blocks.

    Raises:
        ConfigError: if there is none.
    """
    for name, module in model.named_modules():
        # The names of timm, which detectron2's ViT also has.
        if name.split(".")[0] == "backbone" and hasattr(module, "blocks") and hasattr(module, "patch_embed"):
            return f"{name}.", len(module.blocks)
    raise ConfigError(
        "optimizer.params.backbone_layer_decay: the backbone of this model is not a vision transformer; set it to null"
    )

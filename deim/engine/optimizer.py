"""Parameter groups defined by rules."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from deim.errors import ConfigError


def param_groups(model: nn.Module, rules: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Group the trainable parameters of a model for an optimizer.

    Args:
        model: its ``named_parameters`` are grouped.
        rules: {rule name: {"pattern": regular expression, option: value, ...}}. A parameter gets the options (``lr``,
            ``weight_decay`` ...) of the first rule whose pattern is found in its name, or else the optimizer's
            defaults.

    Returns:
        one group per rule that matches at least one parameter, then the remaining parameters.

    Raises:
        ConfigError: if a rule has no pattern, or its pattern is not a valid regular expression.
    """
    compiled = {}
    for name, rule in (rules or {}).items():
        if "pattern" not in rule:
            raise ConfigError(f"optimizer.params.rules.{name} has no pattern")
        try:
            compiled[name] = re.compile(rule["pattern"])
        except re.error as error:
            raise ConfigError(f"optimizer.params.rules.{name}.pattern: {error}") from error
    members: dict[str | None, list[nn.Parameter]] = {name: [] for name in [*compiled, None]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule_name = next((r for r, pattern in compiled.items() if pattern.search(name)), None)
            members[rule_name].append(parameter)
    groups = []
    for rule_name, parameters in members.items():
        rule = rules[rule_name] if rules is not None and rule_name is not None else {}
        options = {key: value for key, value in rule.items() if key != "pattern"}
        if parameters:
            groups.append({"params": parameters, **options})
    return groups

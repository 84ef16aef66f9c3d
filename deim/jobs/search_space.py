"""Search spaces: config keys with the values to try."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from deim.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(:log)?")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[\]]*\])")


@dataclass(frozen=True)
class Dimension:
    """Config key with the values to try: a range of numbers, or a list of choices.

    Attributes:
        key: config key, such as "optimizer.lr".
        low, high: inclusive bounds of a range; None for choices.
        is_log: whether the logarithm of the number is sampled uniformly.
        is_integer: whether only integers are sampled.
        choices: values as they are written in an override; empty for a range.
    """

    key: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    is_integer: bool = False
    choices: tuple[str, ...] = ()

    def examples(self) -> tuple[Any, ...]:
        """Return the values that must be valid for the key: the bounds, or all choices."""
        return self.choices or (self.low, self.high)

    def distribution(self) -> Any:
        """Return Optuna's distribution of the values."""
        from optuna import distributions

        if self.low is None or self.high is None:
            return distributions.CategoricalDistribution(self.choices)
        if self.is_integer:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.is_log)
        return distributions.FloatDistribution(self.low, self.high, log=self.is_log)

    def find(self, value: Any) -> Any:
        """Return the value to try that equals a value of a config; None if it is outside of the range or no choice."""
        if self.low is None or self.high is None:
            return next((choice for choice in self.choices if _parse(choice) == value), None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and self.low <= value <= self.high else None


def _parse(choice: str) -> Any:
    return OmegaConf.from_dotlist([f"value={choice}"]).value


def parse_search(words: Sequence[str], cfg: Any) -> list[Dimension]:
    """Parse the values of ``--search``.

    Args:
        words: ``key=low:high`` or ``key=low:high:log`` for a range, ``key=a,b,c`` for choices. A range has only integers if
            both bounds and the value in the config are integers.
        cfg: a config with the keys.

    Raises:
        ConfigError: if a word is malformed, a key occurs twice, or a range is empty.
    """
    dimensions = [_parse_dimension(word, cfg) for word in words]
    keys = [dimension.key for dimension in dimensions]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ConfigError(f"--search has {', '.join(repeated)} more than once; give all values of a key in one word")
    return dimensions


def _parse_dimension(word: str, cfg: Any) -> Dimension:
    key, _, values = word.partition("=")
    if match := _RANGE.fullmatch(values):
        low, high = float(match[1]), float(match[2])
        if low >= high:
            raise ConfigError(f"--search {word}: the lower bound must be below the upper bound")
        if match[3] and low <= 0:
            raise ConfigError(f"--search {word}: a logarithmic range must be above 0")
        current = OmegaConf.select(cfg, key)
        is_integer = isinstance(current, int) and all(re.fullmatch(r"[-+]?\d+", bound) for bound in match.group(1, 2))
        return Dimension(key, low, high, bool(match[3]), is_integer)
    choices = tuple(dict.fromkeys(_COMMA_OUTSIDE_BRACKETS.split(values)))
    if not key or len(choices) < 2:
        raise ConfigError(
            f"--search {word}: write key=low:high or key=low:high:log for a range of numbers, or key=a,b,c for choices"
        )
    return Dimension(key, choices=choices)


def overrides_of(values: dict[str, Any]) -> list[str]:
    """Return config overrides, one per key."""
    return [f"{key}={value}" for key, value in values.items()]


def shorten_schedule(cfg: Any, epochs: int) -> list[str]:
    """Return the overrides that scale the schedule of a recipe to another number of epochs.

    All stages are scaled by the same factor and rounded; stages of at least one epoch keep one, if there are enough epochs.

    Raises:
        ConfigError: if the recipe has no ``schedule``, or ``epochs`` is less than 1.
    """
    if OmegaConf.select(cfg, "schedule.epochs") is None:
        raise ConfigError("--epochs needs a recipe with schedule.epochs; shorten this one with an override of its own")
    if epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {epochs}")
    factor = epochs / cfg.schedule.epochs
    overrides: dict[str, Any] = {"schedule.epochs": epochs}
    for name in ("flat_epochs", "no_aug_epochs", "strong_end_epoch", "eval_epochs", "checkpoint_epochs"):
        value = cfg.schedule.get(name)
        if value is not None:
            overrides[f"schedule.{name}"] = _scale(value, factor)
    excess = overrides.get("schedule.flat_epochs", 0) + overrides.get("schedule.no_aug_epochs", 0) - epochs
    if excess > 0:
        overrides["schedule.no_aug_epochs"] = max(overrides["schedule.no_aug_epochs"] - excess, 0)
    for name in ("dense_epochs", "drop_epochs"):
        if cfg.schedule.get(name):
            values = [str(_scale(value, factor)) for value in cfg.schedule[name]]
            overrides[f"schedule.{name}"] = f"[{','.join(values)}]"
    return overrides_of(overrides)


def _scale(value: int, factor: float) -> int:
    return max(round(value * factor), min(value, 1))

"""Renaming of parameters between two layouts, with tables that work in both directions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

# Wildcards of templates: any text, and a number.
_WILDCARDS = {"*": "(.+)", "#": r"(\d+)"}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join(_WILDCARDS.get(part, re.escape(part)) for part in re.split(r"([*#])", template)))


def match_template(template: str, name: str) -> tuple[str, ...] | None:
    """Return the text that the wildcards of ``template`` match in ``name``; None if the name does not match."""
    match = _pattern(template).fullmatch(name)
    return None if match is None else match.groups()


def matches_signature(signature: Sequence[str], names: Iterable[str]) -> bool:
    """Return True if every template matches at least one of the names."""
    listed = list(names)
    return all(any(match_template(template, name) is not None for name in listed) for template in signature)


def fill_template(template: str, captured: Sequence[str]) -> str:
    """Return ``template`` with its wildcards replaced, in order."""
    values = iter(captured)
    return re.sub(r"[*#]", lambda _: next(values), template)


@dataclass(frozen=True)
class Rule:
    """Mapping between one or more tensors of another library and the native tensors.

    Args:
        external, native: templates with the same wildcards in the same order: ``*`` for any text, ``#`` for a
            number. Several templates on one side are the parts of one tensor on the other side.
        dim: dimension along which parts are concatenated.
        last: size of the last part; None for parts of equal size.
    """

    external: tuple[str, ...]
    native: tuple[str, ...]
    dim: int = 0
    last: int | None = None

    def split(self, whole: Tensor, count: int) -> tuple[Tensor, ...]:
        """Split ``whole`` into ``count`` parts."""
        if count == 1:
            return (whole,)
        if self.last is not None:
            return whole.split([whole.shape[self.dim] - self.last, self.last], dim=self.dim)
        return whole.chunk(count, dim=self.dim)


def rename(external: str, native: str) -> Rule:
    """Return a rule for one tensor on both sides; see :class:`Rule`."""
    return Rule((external,), (native,))


def with_prefix(prefix: str, rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules with a prefix on both sides, such as ``"backbone."``."""
    return [
        replace(
            rule,
            external=tuple(prefix + name for name in rule.external),
            native=tuple(prefix + name for name in rule.native),
        )
        for rule in rules
    ]


def to_native(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights under native names, and the names without a matching rule or with missing parts."""
    return _translate(weights, [(rule.external, rule.native, rule) for rule in rules])


def from_native(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights under the names of the other library; the inverse of :func:`to_native`."""
    return _translate(weights, [(rule.native, rule.external, rule) for rule in rules])


# A rule in one direction: (source templates, target templates, rule).
_DirectedRule = tuple[tuple[str, ...], tuple[str, ...], Rule]


def _translate(weights: Mapping[str, Tensor], table: Sequence[_DirectedRule]) -> tuple[dict[str, Tensor], list[str]]:
    translated: dict[str, Tensor] = {}
    translated_names: set[str] = set()
    unused = []
    for name in weights:
        if name in translated_names:
            continue
        match = _first(name, table)
        sources = [] if match is None else [fill_template(template, match[1]) for template in match[0][0]]
        if match is None or any(source not in weights for source in sources):
            unused.append(name)
            continue
        translated_names.update(sources)
        (_, targets, rule), captured = match
        parts = [weights[source] for source in sources]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=rule.dim)
        names = [fill_template(template, captured) for template in targets]
        translated.update(zip(names, rule.split(whole, len(names)), strict=True))
    return translated, unused


def _first(name: str, table: Sequence[_DirectedRule]) -> tuple[_DirectedRule, tuple[str, ...]] | None:
    """Return the first entry with a source that ``name`` matches, and the text that its wildcards match."""
    for entry in table:
        for template in entry[0]:
            captured = match_template(template, name)
            if captured is not None:
                return entry, captured
    return None


def group_names(names: Iterable[str]) -> list[str]:
    """Group names that differ only in numbers, with the size of each group, for messages."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return [members[0] if len(members) == 1 else f"{group} ({len(members)})" for group, members in groups.items()]

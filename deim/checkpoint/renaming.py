"""Renaming of parameters between two layouts, by tables that are read in both directions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

# What a template's wildcards stand for: any text, and a number.
_WILDCARDS = {"*": "(.+)", "#": r"(\d+)"}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("".join(_WILDCARDS.get(part, re.escape(part)) for part in re.split(r"([*#])", template)))


def matches(template: str, name: str) -> tuple[str, ...] | None:
    """What the wildcards of ``template`` stand for in ``name``; None if it is no such name."""
    found = _pattern(template).fullmatch(name)
    return None if found is None else found.groups()


def has_names(signature: Sequence[str], names: Iterable[str]) -> bool:
    """Whether each of these templates matches one of the names."""
    listed = list(names)
    return all(any(matches(template, name) is not None for name in listed) for template in signature)


def filled(template: str, captured: Sequence[str]) -> str:
    """``template`` with its wildcards replaced, in order."""
    values = iter(captured)
    return re.sub(r"[*#]", lambda _: next(values), template)


@dataclass(frozen=True)
class Rule:
    """What one or several tensors there are called here.

    Args:
        theirs, ours: templates with the same wildcards in the same order: ``*`` for any text, ``#`` for a
            number. Where there are several, they are the parts of what the other side holds as one tensor.
        dim: along which parts are joined.
        last: the size of the last part; None for equal parts.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    dim: int = 0
    last: int | None = None

    def split(self, whole: Tensor, count: int) -> tuple[Tensor, ...]:
        """``whole`` in ``count`` parts."""
        if count == 1:
            return (whole,)
        if self.last is not None:
            return whole.split([whole.shape[self.dim] - self.last, self.last], dim=self.dim)
        return whole.chunk(count, dim=self.dim)


def rename(theirs: str, ours: str) -> Rule:
    """One tensor on both sides; see :class:`Rule`."""
    return Rule((theirs,), (ours,))


def inside(prefix: str, rules: Iterable[Rule]) -> list[Rule]:
    """The same renamings of what has a prefix on both sides, such as ``"backbone."``."""
    return [
        replace(
            rule, theirs=tuple(prefix + name for name in rule.theirs), ours=tuple(prefix + name for name in rule.ours)
        )
        for rule in rules
    ]


def to_ours(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under our names, and the names that no rule knows or whose other parts are missing."""
    return _translate(weights, [(rule.theirs, rule.ours, rule) for rule in rules])


def to_theirs(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """The other way round of :func:`to_ours`."""
    return _translate(weights, [(rule.ours, rule.theirs, rule) for rule in rules])


_Direction = tuple[tuple[str, ...], tuple[str, ...], Rule]


def _translate(weights: Mapping[str, Tensor], table: Sequence[_Direction]) -> tuple[dict[str, Tensor], list[str]]:
    translated: dict[str, Tensor] = {}
    done: set[str] = set()
    left_over = []
    for name in weights:
        if name in done:
            continue
        found = _first(name, table)
        sources = [] if found is None else [filled(template, found[1]) for template in found[0][0]]
        if found is None or any(source not in weights for source in sources):
            left_over.append(name)
            continue
        done.update(sources)
        (_, targets, rule), captured = found
        parts = [weights[source] for source in sources]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=rule.dim)
        names = [filled(template, captured) for template in targets]
        translated.update(zip(names, rule.split(whole, len(names)), strict=True))
    return translated, left_over


def _first(name: str, table: Sequence[_Direction]) -> tuple[_Direction, tuple[str, ...]] | None:
    """The first entry with a source that ``name`` matches, and what its wildcards stand for."""
    for entry in table:
        for template in entry[0]:
            captured = matches(template, name)
            if captured is not None:
                return entry, captured
    return None


def grouped(names: Iterable[str]) -> list[str]:
    """Names for a message: those that differ in numbers alone together, with how many they are."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    return [members[0] if len(members) == 1 else f"{group} ({len(members)})" for group, members in groups.items()]

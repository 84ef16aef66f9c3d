"""Griffe extension for the API pages: links between docstrings, and the short import paths of packages.

mkdocs loads this file (see ``mkdocs.yml``); it is not a command.
"""

import inspect
import re
from typing import Any

import griffe

# Roles such as :func:`deim.config.load_config` and :class:`~deim.errors.DeimError`.
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`(~?)([\w.]+)`")
_SEVERAL_NAMES = re.compile(r"    ([*\w]+(?:, [*\w]+)+):(.*)$")
_TABLE = re.compile(r"^=+ +=+\n.*\n=+ +=+\n(?:.*\n)+?=+ +=+$", re.MULTILINE)
# Longer values, such as tables of published weights, are not shown in signatures.
_LONGEST_VALUE = 200
_WITHOUT_PAGES = ("deim.cli", "deim.standalone", "deim.__main__")


class DocstringLinks(griffe.Extension):
    """Extension that turns roles into links, or into code if the object has no API page."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name == "deim":
            _prepare(pkg, pkg)


def _prepare(item: griffe.Object, package: griffe.Module) -> None:
    if item.docstring is not None:
        text = _markdown_tables(_one_name_per_item(item.docstring.value))
        text = re.sub(r"::$", ":", text, flags=re.MULTILINE)  # the code below is indented, as in Markdown
        item.docstring.value = _ROLE.sub(lambda role: _link(role, item, package), text)
    if isinstance(item, griffe.Attribute) and item.value is not None and len(str(item.value)) > _LONGEST_VALUE:
        item.value = None
    if isinstance(item, griffe.Module) and item.is_init_module:
        _sort_modules(item)
        if item is not package:
            _list_short_imports(item)
    if isinstance(item, griffe.Class):
        _describe_attributes_once(item)
    for member in item.members.values():
        if not member.is_alias:
            _prepare(member, package)


def _one_name_per_item(docstring: str) -> str:
    """Repeat an item ``a, b: text`` of Args or Attributes for each of its names, as griffe expects."""
    lines: list[str] = []
    item: list[str] = []
    section = False

    def finish() -> None:
        names = _SEVERAL_NAMES.match(item[0]) if section and item else None
        for name in names[1].split(", ") if names else [None]:
            lines.extend(item if name is None or names is None else [f"    {name}:{names[2]}", *item[1:]])
        item.clear()

    for line in inspect.cleandoc(docstring).splitlines():
        if line.startswith("     ") and item:
            item.append(line)
            continue
        finish()
        if line and not line.startswith(" "):
            section = line in ("Args:", "Attributes:")
        item.append(line)
    finish()
    return "\n".join(lines)


def _markdown_tables(docstring: str) -> str:
    """Rewrite two-column tables of reStructuredText as Markdown tables."""
    return _TABLE.sub(lambda table: _markdown_table(table[0]), docstring)


def _markdown_table(table: str) -> str:
    # The columns begin where the rules ("====") above them begin.
    rule, header, _, *body = table.splitlines()
    column = rule.index(" =") + 1
    rows: list[list[str]] = []
    for line in [header, *body[:-1]]:
        left, right = line[:column].strip(), line[column:].strip()
        if left:
            rows.append([left, right])
        else:
            rows[-1][1] += f" {right}"
    rows.insert(1, ["---", "---"])
    return "\n".join(f"| {left} | {right} |" for left, right in rows)


def _sort_modules(package: griffe.Module) -> None:
    """Sort the modules of a package by name; griffe lists them in the order of the file system."""
    for name in sorted(package.modules):
        package.members[name] = package.members.pop(name)


def _describe_attributes_once(item: griffe.Class) -> None:
    """Drop attributes that the docstring of their class describes, and undocumented ones that only methods set."""
    text = item.docstring.value if item.docstring is not None else ""
    for name, attribute in list(item.attributes.items()):
        if attribute.is_alias or attribute.docstring is not None:
            continue
        set_by_methods = "instance-attribute" in attribute.labels and "dataclass" not in item.labels
        if set_by_methods or re.search(rf"^    {name}( \(.*\))?:", text, re.MULTILINE):
            del item.members[name]


def _list_short_imports(package: griffe.Module) -> None:
    """List the names that a package re-exports in its docstring only; the defining module shows the objects."""
    short = [
        member for member in package.members.values() if member.is_alias and member.name in (package.exports or ())
    ]
    if not short:
        return
    for member in short:
        member.public = False
    names = ", ".join(f"[`{member.name}`][{member.target_path}]" for member in sorted(short, key=lambda m: m.name))
    text = package.docstring.value if package.docstring is not None else ""
    package.docstring = griffe.Docstring(f"{text}\n\nImport from `{package.path}`: {names}.", parent=package)


def _link(role: re.Match, item: griffe.Object, package: griffe.Module) -> str:
    shortened, path = role[1], role[2]
    target = _find(path, item, package)
    shown = path.rpartition(".")[2] if shortened or target is not None else path
    return f"`{shown}`" if target is None else f"[`{shown}`][{target}]"


def _find(path: str, item: griffe.Object, package: griffe.Module) -> str | None:
    """Return the full path of the public object that a docstring names, or None."""
    names = path.split(".")
    if names[0] == package.name:
        return _walk(package, names[1:])
    scope: griffe.Object | None = item
    while scope is not None:  # the object itself, its class, its module
        found = _walk(scope, names)
        if found is not None:
            return found
        scope = scope.parent
    return None


def _walk(start: griffe.Object, names: list[str]) -> str | None:
    node: Any = start
    try:
        for name in names:
            node = node.all_members[name]
            node = node.final_target if node.is_alias else node
    except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
        return None
    parts = node.path.split(".")
    if parts[0] != "deim" or any(part.startswith("_") for part in parts) or node.path.startswith(_WITHOUT_PAGES):
        return None
    return node.path

#!/usr/bin/env python
"""Check the tag of a release, and print the section of its version in CHANGELOG.md.

python tools/release_notes.py v0.2.0 --output notes.md

The exit status is 1 if the tag is not "v" and deim.__version__, or if the changelog has no section for this version.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def package_version(root: Path = ROOT) -> str:
    """Return ``deim.__version__`` without importing the package."""
    text = (root / "deim/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise ValueError("deim/__init__.py has no __version__")
    return found[1]


def section(changelog: str, version: str) -> str:
    """Return the text below ``## [version] - date``.

    Raises:
        ValueError: if there is no such heading, or its section is empty.
    """
    heading = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$\n", changelog, re.MULTILINE)
    if heading is None:
        raise ValueError(f"CHANGELOG.md has no heading '## [{version}] - YYYY-MM-DD'")
    text = re.split(r"^## ", changelog[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not text:
        raise ValueError(f"the section of {version} in CHANGELOG.md is empty")
    return text + "\n"


def release_notes(tag: str, root: Path = ROOT) -> str:
    """Return the notes of a release.

    Raises:
        ValueError: if the tag is not ``v`` and the version of the package, or the changelog has no section for it.
    """
    version = package_version(root)
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, but deim.__version__ is {version}: tag v{version}, or set the version")
    return section((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", help="tag of the release, such as v0.2.0")
    parser.add_argument("--output", type=Path, help="file to write; default: print")
    args = parser.parse_args()
    try:
        notes = release_notes(args.tag)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.output is None:
        print(notes, end="")
    else:
        args.output.write_text(notes, encoding="utf-8")


if __name__ == "__main__":
    main()

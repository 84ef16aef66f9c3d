"""The notes of a release, and the form of the changelog."""

import re
from pathlib import Path

import pytest

import deim
from tests.conftest import ROOT
from tools.release_notes import package_version, release_notes, section

CHANGELOG = """# Changelog

## [Unreleased]

### Added

- Something new.

## [0.2.0] - 2026-01-31

### Fixed

- A mistake.

## [0.1.0] - 2025-12-01

- The first release.
"""


def project(folder: Path, version: str, changelog: str = CHANGELOG) -> Path:
    (folder / "deim").mkdir()
    (folder / "deim/__init__.py").write_text(f'"""Package."""\n\n__version__ = "{version}"\n', encoding="utf-8")
    (folder / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    return folder


def test_notes_contain_only_the_section_of_the_version(tmp_path: Path) -> None:
    assert release_notes("v0.2.0", project(tmp_path, "0.2.0")) == "### Fixed\n\n- A mistake.\n"
    assert section(CHANGELOG, "0.1.0") == "- The first release.\n"


@pytest.mark.parametrize("tag", ["v0.2.1", "0.2.0", "v0.2.0rc1"])
def test_a_tag_other_than_the_version_is_an_error(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ValueError, match=r"deim\.__version__ is 0\.2\.0"):
        release_notes(tag, project(tmp_path, "0.2.0"))


@pytest.mark.parametrize("heading", ["## 0.2.0", "## [0.2.0]", "## [0.2.00] - 2026-01-31"])
def test_a_version_without_a_dated_section_is_an_error(tmp_path: Path, heading: str) -> None:
    changelog = CHANGELOG.replace("## [0.2.0] - 2026-01-31", heading)
    with pytest.raises(ValueError, match="has no heading"):
        release_notes("v0.2.0", project(tmp_path, "0.2.0", changelog))


def test_an_empty_section_is_an_error() -> None:
    with pytest.raises(ValueError, match="is empty"):
        section("## [0.2.0] - 2026-01-31\n\n## [0.1.0] - 2025-12-01\n\n- First.\n", "0.2.0")


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_the_version_is_that_of_the_package_and_of_the_citation() -> None:
    assert package_version() == deim.__version__
    assert f"\nversion: {deim.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")

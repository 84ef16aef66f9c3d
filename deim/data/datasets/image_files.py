"""Lookup of the images that an annotation file references."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from deim.data.image import IMAGE_SUFFIXES

# Label Studio prefixes the names of uploaded files with eight hexadecimal digits.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_URL_SCHEME = re.compile(r"^[a-z0-9]+://", re.IGNORECASE)


def is_image(path: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_images(folder: Path) -> list[Path]:
    """List the images of a folder and its subfolders, sorted, without hidden ones.

    Symbolic links are followed, but each folder is listed only once.
    """
    return sorted(folder / name for name in _walk_images(folder))


def _walk_images(folder: Path) -> Iterator[str]:
    seen = set()
    for subfolder, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(subfolder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(subfolder, folder)
        for name in names:
            if not name.startswith(".") and is_image(Path(name)):
                yield name if relative == os.curdir else os.path.join(relative, name)


class ImageFiles:
    """Index of the images below a folder that resolves the names used in annotation files.

    A name is first looked up unchanged. If no such file exists, ``\\`` is read as ``/``, the scheme of a URL is dropped,
    and images are searched by file name, ignoring case and Label Studio's upload prefix. Of several images with this
    file name, the one with the most parent folders in common is used. Names never resolve to files outside the folder.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        inexact_matches: {name in the annotation file: path of the image} for names that differ from the path of the image
            by more than backslashes and, if they have no suffix, by more than the suffix.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.inexact_matches: dict[str, Path] = {}
        self._listings: dict[Path, frozenset[str]] = {}
        self._images: dict[Path, dict[str, str]] = {}

    def contains(self, listed_name: str) -> bool:
        """Return whether a name, unchanged, is the path of a file below the folder."""
        return self._exists(Path(listed_name))

    def find(self, listed_name: str) -> Path | None:
        """Find an image; return None if no image matches, or several match equally well."""
        if self._exists(Path(listed_name)):
            return self.root / listed_name
        parts = _path_components(listed_name)
        if not parts:
            return None
        listed_path = Path(*parts)
        path = listed_path if self._exists(listed_path) else self._find_by_name(parts)
        if path is None:
            return None
        if Path(*listed_name.replace("\\", "/").split("/")) != path:
            self.inexact_matches[listed_name] = self.root / path
        return self.root / path

    def find_by_stem(self, stem: str) -> Path | None:
        """Find an image by its name without suffix; return None if no image matches, or several match equally well."""
        exact_match = self.find_exact_stem(stem)
        parts = _path_components(stem)
        if exact_match is not None or not parts:
            return exact_match
        path = _match_longest_suffix(parts, self._by_stem.get(_normalize(parts[-1]), ()))
        if path is None:
            return None
        self.inexact_matches[stem] = self.root / path
        return self.root / path

    def find_exact_stem(self, stem: str) -> Path | None:
        """Find an image by its path without suffix; return None if there is no such image in exactly this folder."""
        parts = _path_components(stem)
        if not parts:
            return None
        folder = Path(*parts[:-1])
        name = self._images_in_folder(folder).get(parts[-1])
        return None if name is None else self.root / folder / name

    def is_ambiguous(self, listed_name: str, by_stem: bool = False) -> bool:
        """Return whether several images have the file name (or stem) of a name that :meth:`find` did not find."""
        parts = _path_components(listed_name)
        index = self._by_stem if by_stem else self._by_name
        return bool(parts) and len(index.get(_normalize(parts[-1]), ())) > 1

    def describe_inexact_matches(self, source: str) -> list[str]:
        """Return a note (at most one line) about images whose paths differ from those in ``source``."""
        if not self.inexact_matches:
            return []
        listed_name, path = next(iter(self.inexact_matches.items()))
        count = len(self.inexact_matches)
        return [f"{count} image paths differ from those in {source}, for example {path} for {listed_name!r}"]

    def describe_unannotated_images(self, annotations: Iterable[Path], kind: str, records: Sequence[dict]) -> list[str]:
        """Return a note (at most one line) about images without an annotation file.

        Args:
            annotations: annotation files, one per image.
            kind: name of the file format, for the note.
            records: detectron2 records of the images whose annotations were read.
        """
        annotated = {path.stem for path in annotations}
        used = {record["file_name"] for record in records}
        count = sum(Path(path).stem not in annotated and str(self.root / path) not in used for path in self.paths)
        return [f"{count} images in {self.root} have no {kind} file and are left out"] if count else []

    def _list_folder(self, folder: Path) -> frozenset[str]:
        """Return the names in a folder. Each folder is listed once: checking file by file is slow on network drives."""
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.root / folder))
            except (OSError, ValueError):  # ValueError: the name is not a valid path
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def _images_in_folder(self, folder: Path) -> dict[str, str]:
        """Map each file stem in a folder to its image."""
        if folder not in self._images:
            names = sorted((name for name in self._list_folder(folder) if is_image(Path(name))), key=_suffix_priority)
            self._images[folder] = {Path(name).stem: name for name in reversed(names)}
        return self._images[folder]

    def _exists(self, path: Path) -> bool:
        is_inside = not path.is_absolute() and os.pardir not in path.parts
        return is_inside and path.name in self._list_folder(path.parent)

    @cached_property
    def paths(self) -> list[str]:
        """All images below the folder, relative to it, sorted."""
        return sorted(_walk_images(self.root))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _group((_normalize(os.path.basename(path)), path) for path in self.paths)

    @cached_property
    def _by_name_without_prefix(self) -> dict[str, list[str]]:
        return _group((_UPLOAD_PREFIX.sub("", _normalize(os.path.basename(path))), path) for path in self.paths)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _group((_normalize(Path(path).stem), path) for path in self.paths)

    def _find_by_name(self, parts: list[str]) -> Path | None:
        name = _normalize(parts[-1])
        return _match_longest_suffix(parts, self._by_name.get(name, ())) or _match_longest_suffix(
            parts, self._by_name_without_prefix.get(_UPLOAD_PREFIX.sub("", name), ())
        )


def find_missing_images(paths: Iterable[str]) -> list[str]:
    """Return the paths at which no file exists; paths with a scheme, such as ``tar://``, are not checked."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        if "://" in path:
            continue
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = frozenset(os.listdir(folder or os.curdir))
            except (OSError, ValueError):  # ValueError: the name is not a valid path
                listings[folder] = frozenset()
        # The second check is needed on case-insensitive file systems.
        if name not in listings[folder] and not os.path.lexists(path):
            missing.append(path)
    return missing


def _path_components(listed_name: str) -> list[str]:
    """Split a path or URL into its components, without ``.`` and ``..``."""
    text = listed_name.strip()
    if "?d=" in text:  # Label Studio's URL of a local file
        text = unquote(text.split("?d=", 1)[1])
    if _URL_SCHEME.match(text):
        text = unquote(_URL_SCHEME.sub("", text).split("?", 1)[0])
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..") and "\0" not in part]


def _normalize(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return groups


def _match_longest_suffix(parts: list[str], candidates: Iterable[str]) -> Path | None:
    """Return the candidate that shares the most trailing folders with ``parts``; None if the best two are tied."""
    target = [_normalize(part) for part in reversed(parts[:-1])]
    scored = []
    for candidate in candidates:
        folders = [_normalize(part) for part in reversed(Path(candidate).parts[:-1])]
        first_difference = next((i for i, (a, b) in enumerate(zip(target, folders, strict=False)) if a != b), None)
        shared = min(len(target), len(folders)) if first_difference is None else first_difference
        scored.append((shared, candidate))
    scored.sort(key=lambda pair: -pair[0])
    if not scored or (len(scored) > 1 and scored[0][0] == scored[1][0]):
        return None
    return Path(scored[0][1])


def _suffix_priority(name: str) -> tuple[int, str]:
    """Return a sort key: .jpg, .png, .jpeg, then other suffixes; alphabetical within a suffix."""
    order = (".jpg", ".png", ".jpeg")
    suffix = Path(name).suffix.lower()
    return (order.index(suffix) if suffix in order else len(order), name)

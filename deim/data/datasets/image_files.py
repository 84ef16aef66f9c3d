"""Finding the images that an annotation file names."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from deim.data.image import IMAGE_SUFFIXES

# Label Studio puts eight hexadecimal digits before the name of an uploaded file.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
_ADDRESS = re.compile(r"^[a-z0-9]+://", re.IGNORECASE)


def is_image(path: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_below(folder: Path) -> list[Path]:
    """List the images of a folder and its subfolders, sorted; links are followed, but not in circles."""
    return sorted(folder / name for name in _walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(place, folder)
        for name in names:
            if not name.startswith(".") and is_image(Path(name)):
                yield name if relative == os.curdir else os.path.join(relative, name)


class ImageFiles:
    """The images below a folder, by the names that annotation files give them.

    A name is looked up as it is written. If there is no such file, it is looked up with ``/`` in place of ``\\``, then
    without the folders before it, in another case, and with or without the prefix that Label Studio gives to uploads.
    No name leads out of the folder.

    Args:
        root: The folder.

    Attributes:
        guesses: Pairs of a written name and the path of the image, for names that are not paths below ``root``.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.guesses: list[tuple[str, Path]] = []
        self._listings: dict[Path, frozenset[str]] = {}
        self._images: dict[Path, dict[str, str]] = {}

    def holds(self, written: str) -> bool:
        """Return whether a name is the path of a file below the folder as it is written."""
        return self._has(Path(written))

    def find(self, written: str) -> Path | None:
        """Find an image; None if there is none of this name, or several that fit it equally well."""
        if self._has(Path(written)):
            return self.root / written
        parts = _parts(written)
        if not parts:
            return None
        path = Path(*parts)
        found = path if self._has(path) else self._best(parts)
        if found is None:
            return None
        if Path(*written.replace("\\", "/").split("/")) != found:
            self.guesses.append((written, self.root / found))
        return self.root / found

    def find_stem(self, stem: str) -> Path | None:
        """Find an image by its name without the suffix; None if there is none."""
        parts = _parts(stem)
        if not parts:
            return None
        folder, name = Path(*parts[:-1]), parts[-1]
        beside = self._stems(folder).get(name)
        if beside is not None:
            return self.root / folder / beside
        found = _longest(parts, self._by_stem.get(_key(name), ()))
        return None if found is None else self.root / found

    def note(self, source: str) -> list[str]:
        """Say in at most one line which images have other names than ``source`` states."""
        if not self.guesses:
            return []
        written, path = self.guesses[0]
        return [f"{len(self.guesses)} images have other paths than {source} states, such as {path} for {written!r}"]

    def _names(self, folder: Path) -> frozenset[str]:
        """The names in a folder, which is listed once: asking for each file is slow on network drives."""
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.root / folder))
            except (OSError, ValueError):  # the second, of names that cannot be
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def _stems(self, folder: Path) -> dict[str, str]:
        """The image of each stem in a folder."""
        if folder not in self._images:
            names = sorted((name for name in self._names(folder) if is_image(Path(name))), key=_preference)
            self._images[folder] = {Path(name).stem: name for name in reversed(names)}
        return self._images[folder]

    def _has(self, path: Path) -> bool:
        inside = not path.is_absolute() and os.pardir not in path.parts
        return inside and path.name in self._names(path.parent)

    @cached_property
    def paths(self) -> list[str]:
        """All images below the folder, relative to it, sorted."""
        return sorted(_walk(self.root))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((_key(os.path.basename(path)), path) for path in self.paths)

    @cached_property
    def _by_upload(self) -> dict[str, list[str]]:
        return _grouped((_UPLOAD.sub("", _key(os.path.basename(path))), path) for path in self.paths)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((_key(Path(path).stem), path) for path in self.paths)

    def _best(self, parts: list[str]) -> Path | None:
        name = _key(parts[-1])
        return _longest(parts, self._by_name.get(name, ())) or _longest(
            parts, self._by_upload.get(_UPLOAD.sub("", name), ())
        )


def missing_images(paths: Iterable[str]) -> list[str]:
    """Return those of some image paths where no file is; paths with a scheme, such as ``tar://``, are left out."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        if "://" in path:
            continue
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = frozenset(os.listdir(folder or os.curdir))
            except (OSError, ValueError):  # the second, of names that cannot be
                listings[folder] = frozenset()
        # The second question is for file systems on which names in other cases are the same file.
        if name not in listings[folder] and not os.path.lexists(path):
            missing.append(path)
    return missing


def _parts(written: str) -> list[str]:
    """The folders and the name of a path or address, without what leads upwards."""
    text = written.strip()
    if "?d=" in text:  # Label Studio's address of a local file
        text = text.split("?d=", 1)[1]
    if _ADDRESS.match(text):
        text = unquote(_ADDRESS.sub("", text).split("?", 1)[0])
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..") and "\0" not in part]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return groups


def _longest(parts: list[str], candidates: Iterable[str]) -> Path | None:
    """The candidate whose last folders are those of ``parts``, as many as possible; None if two are equally good."""
    wanted = [_key(part) for part in reversed(parts[:-1])]
    scored = []
    for candidate in candidates:
        folders = [_key(part) for part in reversed(Path(candidate).parts[:-1])]
        same = next((i for i, (a, b) in enumerate(zip(wanted, folders, strict=False)) if a != b), None)
        scored.append((min(len(wanted), len(folders)) if same is None else same, candidate))
    scored.sort(key=lambda one: -one[0])
    if not scored or (len(scored) > 1 and scored[0][0] == scored[1][0]):
        return None
    return Path(scored[0][1])


def _preference(name: str) -> tuple[int, str]:
    """JPEG before others, then by the alphabet."""
    order = (".jpg", ".png", ".jpeg")
    suffix = Path(name).suffix.lower()
    return (order.index(suffix) if suffix in order else len(order), name)

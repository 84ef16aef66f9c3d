"""Images in tar archives, as stores of objects like them: few large files in place of many small ones."""

import functools
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "tar://"


class TarHandler(PathHandler):
    """Opens ``tar://<archive>.tar/<member>`` for whatever reads by iopath, detectron2's mappers among them.

    The archive is a local file or anything else that iopath knows, which is then kept in its cache. Its table of
    contents is read once in each process; a member is read by itself, wherever it stands.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[bytes]:
        """
        Raises:
            FileNotFoundError: there is no such archive or member.
        """
        archive, member = split(path)
        place = contents(archive).get(member)
        if place is None:
            raise FileNotFoundError(2, f"{archive} has no member {member}")
        with open(_local(archive), "rb") as file:
            file.seek(place[0])
            return io.BytesIO(file.read(place[1]))

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return PathManager.isdir(path.removeprefix(PREFIX))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        archive, member = split(path)
        return member in contents(archive)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isdir(path) or self._isfile(path)


def split(path: str) -> tuple[str, str]:
    """The archive and the member that a path names.

    Raises:
        FileNotFoundError: it names no archive.
    """
    archive, found, member = path.removeprefix(PREFIX).partition(".tar/")
    if not found:
        raise FileNotFoundError(2, f"{path} names no archive (tar://<archive>.tar/<member>)")
    return f"{archive}.tar", member


@functools.lru_cache(maxsize=4096)
def contents(archive: str) -> dict[str, tuple[int, int]]:
    """Where the files of an archive begin, and how many bytes they have, by name."""
    with tarfile.open(_local(archive), "r:") as opened:
        return {member.name: (member.offset_data, member.size) for member in opened if member.isfile()}


@functools.lru_cache(maxsize=4096)
def _local(archive: str) -> str:
    return PathManager.get_local_path(archive)


def write_shards(files: Iterable[tuple[Path, str]], folder: Path, max_bytes: int) -> Iterator[str]:
    """Write files into archives ``00000.tar`` ..., in their order.

    Args:
        files: each with its name in the archive.
        max_bytes: a new archive is begun before one would hold more.

    Yields:
        where each went, relative to the folder: ``00000.tar/name``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, group in enumerate(_groups(files, max_bytes)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for path, name in group:
                archive.add(path, name, recursive=False)
                yield f"{number:05d}.tar/{name}"


def _groups(files: Iterable[tuple[Path, str]], max_bytes: int) -> Iterator[list[tuple[Path, str]]]:
    """Neighbors that have no more than ``max_bytes`` together, or are one."""
    group: list[tuple[Path, str]] = []
    size = 0
    for file in files:
        more = file[0].stat().st_size
        if group and size + more > max_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += more
    if group:
        yield group


PathManager.register_handler(TarHandler(), allow_override=True)

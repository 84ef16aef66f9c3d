"""Images in tar archives: a few large files instead of many small ones, which suits object stores."""

import errno
import functools
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from deim.errors import DatasetError

PREFIX = "tar://"


class TarHandler(PathHandler):
    """iopath handler for ``tar://<archive>.tar/<member>`` paths, for all readers that use iopath, such as detectron2's
    mappers.

    The archive is a local file, or any other path that iopath supports, which is downloaded to iopath's cache. Its
    table of contents is read once per process; members are read by random access.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[bytes]:
        """Open a member.

        Raises:
            FileNotFoundError: if the archive or the member does not exist.
            OSError: if the archive is damaged.
        """
        archive, member = split_tar_path(path)
        members = list_members(archive)
        if member not in members:
            raise FileNotFoundError(2, f"{archive} has no member {member}")
        offset, size = members[member]
        with open(_local_path(archive), "rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size))

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        """Return True for ``tar://<folder>`` with an existing folder of archives, the form of ``image_root``."""
        return PathManager.isdir(path.removeprefix(PREFIX))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            archive, member = split_tar_path(path)
            return member in list_members(archive)
        except FileNotFoundError:
            return False

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isdir(path) or self._isfile(path)


def split_tar_path(path: str) -> tuple[str, str]:
    """Split a path into the archive and the member.

    Raises:
        FileNotFoundError: if the path contains no archive.
    """
    archive, separator, member = path.removeprefix(PREFIX).partition(".tar/")
    if not separator:
        raise FileNotFoundError(2, f"{path} is not of the form tar://<archive>.tar/<member>")
    return f"{archive}.tar", member


@functools.lru_cache(maxsize=4096)
def list_members(archive: str) -> dict[str, tuple[int, int]]:
    """Return the (offset, size) in bytes of each file of an archive, by name.

    Raises:
        FileNotFoundError: if the archive does not exist.
        OSError: if the archive is damaged.
    """
    try:
        with tarfile.open(_local_path(archive), "r:") as opened:
            return {member.name: (member.offset_data, member.size) for member in opened if member.isfile()}
    except tarfile.TarError as error:
        raise OSError(errno.EIO, f"{archive} is not a complete tar archive ({error})") from error


@functools.lru_cache(maxsize=4096)
def _local_path(archive: str) -> str:
    return PathManager.get_local_path(archive)


def write_shards(files: Iterable[tuple[Path, str]], folder: Path, max_bytes: int) -> Iterator[str]:
    """Write files, in order, into archives ``00000.tar``, ``00001.tar``, ...

    Args:
        files: pairs (file, name in the archive).
        folder: folder of the archives.
        max_bytes: maximum total size of the files in one archive; a larger single file gets its own archive.

    Yields:
        the path of each file relative to the folder: ``00000.tar/name``.

    Raises:
        DatasetError: if the folder already has archives, which belong to other annotations.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("[0-9]*.tar")):
        raise DatasetError(f"{folder} already has archives: choose another output folder, or delete them")
    for number, group in enumerate(_groups(files, max_bytes)):
        with tarfile.open(folder / f"{number:05d}.tar", "w", dereference=True) as archive:
            for path, name in group:
                archive.add(path, name, recursive=False)
                yield f"{number:05d}.tar/{name}"


def _groups(files: Iterable[tuple[Path, str]], max_bytes: int) -> Iterator[list[tuple[Path, str]]]:
    """Group consecutive files of at most ``max_bytes`` in total; a larger single file forms its own group."""
    group: list[tuple[Path, str]] = []
    size = 0
    for file in files:
        file_size = file[0].stat().st_size
        if group and size + file_size > max_bytes:
            yield group
            group, size = [], 0
        group.append(file)
        size += file_size
    if group:
        yield group


PathManager.register_handler(TarHandler(), allow_override=True)

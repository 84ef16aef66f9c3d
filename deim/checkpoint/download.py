"""Download and cache of weights through iopath: GitHub, Hugging Face, Google Drive and detectron2's storage."""

import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gdown
import requests
from detectron2.utils.file_io import PathManager as detectron2_paths
from gdown.exceptions import DownloadError
from iopath.common.file_io import HTTPURLHandler, PathManager, file_lock, get_cache_dir
from tqdm import tqdm

from deim.checkpoint.hub import SCHEME, download_repository
from deim.checkpoint.run_checkpointer import describe_damage
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

_DETECTRON2 = "detectron2://"
_DETECTRON2_STORAGE = "https://dl.fbaipublicfiles.com/detectron2/"
# Timeout in seconds without data from the server, and number of retries after a broken connection.
_TIMEOUT, _RETRIES = 60, 3
# Part of gdown's error message if a server cannot resume an interrupted download.
_RESUME_UNSUPPORTED = "byte range"


def cache_folder() -> Path:
    """Return the cache folder of published weights: ``deim`` in iopath's cache (``$FVCORE_CACHE``, by default
    ``~/.torch/iopath_cache``)."""
    return Path(get_cache_dir()) / "deim"


class WeightsHandler(HTTPURLHandler):
    """iopath handler of web URLs for files of several hundred megabytes.

    It resumes interrupted downloads and follows the confirmation pages of Google Drive. A file gets its name in the
    cache only when it is complete and looks like a weights file.
    """

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        # Same location as iopath's own handler, so that files already in its cache are found. A query is part of the
        # name only if it selects the file, as in ``https://drive.google.com/uc?id=...``: the path then names no file.
        url = urlsplit(path)
        parts = url.path.lstrip("/").split("/")
        if url.query and not Path(parts[-1]).suffix:
            parts[-1] += "?" + url.query.replace("/", "_")
        return str(fetch(path, Path(get_cache_dir(cache_dir), *parts)))


_web_paths = PathManager()
_web_paths.register_handler(WeightsHandler())


def local_path(url: str) -> str:
    """Return the local path of a URL; download the file first if it is not in the cache.

    Args:
        url: a path, a web URL, ``hf://user/model`` for a repository of the Hugging Face Hub, ``detectron2://...``, or
            any other URL that detectron2's ``PathManager`` supports.

    Raises:
        CheckpointError: if the URL cannot be downloaded or is not a weights file.
    """
    if "://" not in url:
        return url
    if url.startswith(SCHEME):
        return str(download_repository(url))
    url = to_web_url(url)
    if url.startswith(("http://", "https://")):
        return _web_paths.get_local_path(url)
    try:
        return detectron2_paths.get_local_path(url)
    except Exception as error:  # iopath passes on all errors of its handlers
        raise CheckpointError(
            f"{url} cannot be downloaded ({error}). Download it on another machine and pass the path of the file."
        ) from error


def to_web_url(url: str) -> str:
    """Return the web URL of a ``detectron2://`` URL, without its query; other URLs are unchanged."""
    if not url.startswith(_DETECTRON2):
        return url
    return _DETECTRON2_STORAGE + url.removeprefix(_DETECTRON2).partition("?")[0]


def fetch(url: str, target: Path) -> Path:
    """Download a weights file to ``target`` unless it exists.

    If several processes request the same file, one downloads it and the others wait. An interrupted download is
    resumed.

    Args:
        url: URL; a Google Drive page stands for the file it shows.
        target: path of the downloaded file.

    Returns:
        ``target``.

    Raises:
        CheckpointError: if the file cannot be downloaded or is not a weights file. The message contains the URL
            and the target.
    """
    if target.is_file():
        return target
    try:
        with file_lock(str(target)):
            if not target.is_file():
                _download(url, target)
    except OSError as error:
        raise CheckpointError(_failure(url, target, error.strerror or str(error))) from error
    return target


def _download(url: str, target: Path) -> None:
    logger.info(f"Downloading {url} to {target}")
    temporary = target.with_name(f"{target.name}.download")
    try:
        try:
            _transfer(url, temporary, resume=True)
        except DownloadError as error:
            if _RESUME_UNSUPPORTED not in str(error):
                raise
            for partial in target.parent.glob(f"{temporary.name}*.part"):
                partial.unlink()
            _transfer(url, temporary, resume=False)
    except (requests.RequestException, DownloadError) as error:
        raise CheckpointError(_failure(url, target, _reason(error))) from error
    problem = _invalid_reason(temporary)
    if problem is not None:
        temporary.unlink()
        raise CheckpointError(_failure(url, target, f"the response {problem}"))
    os.replace(temporary, target)


def _transfer(url: str, temporary: Path, resume: bool) -> None:
    with tqdm(desc=temporary.stem, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        gdown.download(
            url,
            str(temporary),
            quiet=True,
            use_cookies=False,
            resume=resume,
            timeout=_TIMEOUT,
            retries=_RETRIES,
            progress=show,
        )


def _failure(url: str, target: Path, reason: str) -> str:
    return f"{url} cannot be downloaded: {reason}. Without a network, download it elsewhere and save it as {target}"


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server responded with {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectionError) or isinstance(error.__cause__, requests.ConnectionError):
        return "no connection to the server"
    return " ".join(str(error).split())


def _invalid_reason(path: Path) -> str | None:
    """Return the reason why a file is not a valid weights file; None if it looks valid."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return describe_damage(str(path))
    # A pickle, or the JSON header of a safetensors file, which follows 8 bytes of length.
    if start.startswith(b"\x80") or start[8:9] == b"{":
        return None
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return "is a web page and not a weights file"
    return "is not a weights file"

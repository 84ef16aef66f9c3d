"""Download files of weights once, through iopath: GitHub, Hugging Face, Google Drive and detectron2's storage."""

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

from deim.checkpoint.run_checkpointer import damage
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

_DETECTRON2 = "detectron2://"
_DETECTRON2_STORAGE = "https://dl.fbaipublicfiles.com/detectron2/"
# Seconds that a server may be silent, and how often a broken connection is made again.
_TIMEOUT, _RETRIES = 60, 3
# What gdown's error says where a server cannot continue a file that was interrupted.
_CANNOT_CONTINUE = "byte range"


def cache_folder() -> Path:
    """Return the folder of published weights: ``deim`` in iopath's cache (``$FVCORE_CACHE``, by default
    ``~/.torch/iopath_cache``)."""
    return Path(get_cache_dir()) / "deim"


class WeightsHandler(HTTPURLHandler):
    """iopath's handler of web addresses, for files of several hundred megabytes.

    It continues an interrupted download, follows the confirmation pages of Google Drive, and never leaves a partial or
    wrong file in the cache.
    """

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        # The place that iopath's own handler uses, so that files in its cache are found.
        place = urlsplit(path).path.lstrip("/")
        return str(fetch(path, Path(get_cache_dir(cache_dir), *place.split("/"))))


_web_paths = PathManager()
_web_paths.register_handler(WeightsHandler())


def local_path(address: str) -> str:
    """Return the path of an address on this machine, and download it first if it is not in the cache.

    Args:
        address: a path, a web address, ``detectron2://...``, or what else detectron2's ``PathManager`` knows.

    Raises:
        CheckpointError: the address cannot be downloaded, or is not a file of weights.
    """
    if "://" not in address:
        return address
    address = web_address(address)
    if address.startswith(("http://", "https://")):
        return _web_paths.get_local_path(address)
    try:
        return detectron2_paths.get_local_path(address)
    except Exception as error:  # iopath passes on what its handlers raise
        raise CheckpointError(
            f"{address} cannot be downloaded ({error}). Download it elsewhere and give the path of the file."
        ) from error


def web_address(address: str) -> str:
    """Return the web address of a ``detectron2://`` address, without detectron2's options; others stay as they are."""
    if not address.startswith(_DETECTRON2):
        return address
    return _DETECTRON2_STORAGE + address.removeprefix(_DETECTRON2).partition("?")[0]


def fetch(address: str, target: Path) -> Path:
    """Download a file of weights to ``target`` unless it is there.

    Of several processes that ask at once, one downloads and the others wait for it. An interrupted download continues
    where it stopped.

    Args:
        address: a web address; a page of Google Drive stands for the file that it shows.
        target: where the file is kept.

    Returns:
        ``target``.

    Raises:
        CheckpointError: the file cannot be downloaded or is not a file of weights. The message names the address and
            the target.
    """
    if target.is_file():
        return target
    try:
        with file_lock(str(target)):
            if not target.is_file():
                _download(address, target)
    except OSError as error:
        raise CheckpointError(_failure(address, target, error.strerror or str(error))) from error
    return target


def _download(address: str, target: Path) -> None:
    logger.info(f"Downloading {address} to {target}")
    arriving = target.with_name(f"{target.name}.download")
    try:
        try:
            _transfer(address, arriving, resume=True)
        except DownloadError as error:
            if _CANNOT_CONTINUE not in str(error):
                raise
            for partial in target.parent.glob(f"{arriving.name}*.part"):
                partial.unlink()
            _transfer(address, arriving, resume=False)
    except (requests.RequestException, DownloadError) as error:
        raise CheckpointError(_failure(address, target, _reason(error))) from error
    problem = _problem(arriving)
    if problem is not None:
        arriving.unlink()
        raise CheckpointError(_failure(address, target, f"what the server sent {problem}"))
    os.replace(arriving, target)


def _transfer(address: str, arriving: Path, resume: bool) -> None:
    with tqdm(desc=arriving.stem, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        gdown.download(
            address,
            str(arriving),
            quiet=True,
            use_cookies=False,
            resume=resume,
            timeout=_TIMEOUT,
            retries=_RETRIES,
            progress=show,
        )


def _failure(address: str, target: Path, reason: str) -> str:
    return f"{address} cannot be downloaded: {reason}. Without a network, download it elsewhere and save it as {target}"


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectionError) or isinstance(error.__cause__, requests.ConnectionError):
        return "there is no connection to the server"
    return " ".join(str(error).split())


def _problem(path: Path) -> str | None:
    """What shows that a file holds no weights, or is damaged; None where nothing does."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return damage(str(path))
    # a pickle, or the header of a safetensors file after its length
    if start.startswith(b"\x80") or start[8:9] == b"{":
        return None
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return "is a web page and not a file of weights"
    return "is not a file of weights"

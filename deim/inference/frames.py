"""Frames of any source, for Python programs."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from deim.data.image import IMAGE_SUFFIXES
from deim.inference.addresses import WEB_SCHEMES, is_address, request_content, scheme
from deim.inference.images import as_rgb, iterate_images
from deim.inference.live import LiveStream, ReconnectPolicy
from deim.inference.video import DEFAULT_FPS, Frame, Video, is_camera, is_video


def is_image_address(address: str) -> bool:
    """Return whether an address is one of an image, by its suffix or the answer of its web server.

    Raises:
        DatasetError: if the protocol is not supported, or the server cannot be reached or answers with an error.
    """
    if scheme(address) not in WEB_SCHEMES:
        return False
    return urlsplit(address).path.lower().endswith(tuple(IMAGE_SUFFIXES)) or request_content(address).is_image


def open_video(source: str, policy: ReconnectPolicy) -> tuple[Video, bool]:
    """Open a video, camera or stream, and return it with whether it is live.

    Raises:
        DatasetError: if the source cannot be opened.
    """
    video = Video(source, policy.timeout)
    if is_camera(source) or (is_address(source) and scheme(source) not in WEB_SCHEMES):
        return video, True
    if not is_address(source) or video.num_frames is not None:
        return video, False
    # A finished HLS video states its number of frames; the playlist of a live one is a file like any other.
    is_live_playlist = urlsplit(source).path.lower().endswith(".m3u8")
    return video, is_live_playlist or not request_content(source).has_length


def open_frames(source: str, policy: ReconnectPolicy | None = None, image_fps: float = DEFAULT_FPS) -> Iterator[Frame]:
    """Yield the frames of a video, camera or stream, or images.

    Of live streams and cameras, the newest frame is yielded each time: frames that arrive in between are dropped.

    Args:
        source: video file, camera index, address (``rtsp://``, ``http://`` and others), or images as
            :func:`deim.inference.images.iterate_images` finds them.
        policy: timeouts, and how a broken live stream is connected again.
        image_fps: frames per second of images, for their times.

    Raises:
        DatasetError: if the source cannot be opened, or a live stream breaks off and cannot be connected again.
    """
    policy = policy or ReconnectPolicy()
    if not is_video(source) and not (is_address(source) and not is_image_address(source)):
        for number, image in enumerate(iterate_images(source)):
            yield Frame(as_rgb(image), number, number / image_fps)
        return
    video, is_live = open_video(source, policy)
    if not is_live:
        for number, pixels in enumerate(video):
            yield Frame(pixels, number, number / video.fps)
        return
    stream = LiveStream(source, policy, video)
    try:
        while (frame := stream.wait()) is not None:
            yield frame
    finally:
        stream.close()
    if stream.error is not None:
        raise stream.error

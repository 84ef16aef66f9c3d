"""Windows that show frames while a video or stream is processed."""

import sys
from typing import Any

import numpy as np
from PIL import Image

from deim.errors import ConfigError

# Larger frames are reduced to this width and height in pixels.
_MAX_SIZE = (1600, 900)


class Display:
    """Windows with the newest frame of each video or stream, one window for each name.

    Tk is used, since the OpenCV of this package (opencv-python-headless) has no windows.

    Raises:
        ConfigError: if Python has no Tk, or there is no screen.
    """

    def __init__(self) -> None:
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            raise ConfigError(
                f"--show requires Tk, which this Python does not have ({error}): install the package python3-tk of the "
                "system, or omit --show"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            hint = "" if sys.platform == "win32" else " (over SSH: ssh -X)"
            raise ConfigError(
                f"--show requires a screen, and there is none{hint}: {error}. Use --output to save the results instead"
            ) from error
        self._root.withdraw()
        self._tk, self._image_tk = tkinter, ImageTk
        self._windows: dict[str, tuple[Any, Any]] = {}
        self.is_closed = False

    def show(self, name: str, image: np.ndarray) -> None:
        """Show a frame, uint8 (H, W, 3) RGB; :attr:`is_closed` becomes true if the user closes a window or presses q."""
        if name not in self._windows:
            self._windows[name] = self._open(name)
        _, label = self._windows[name]
        resized = Image.fromarray(image)
        resized.thumbnail(_MAX_SIZE)
        displayed = self._image_tk.PhotoImage(resized, master=self._root)
        label.configure(image=displayed)
        label.image = displayed  # Tk keeps no reference
        self.update()

    def update(self) -> None:
        """Process the events of the windows."""
        self._root.update()

    def close(self) -> None:
        self._root.destroy()

    def _open(self, name: str) -> tuple[Any, Any]:
        window = self._tk.Toplevel(self._root)
        window.title(name)
        window.protocol("WM_DELETE_WINDOW", self._request_close)
        for key in ("q", "<Escape>"):
            window.bind(key, lambda event: self._request_close())
        label = self._tk.Label(window)
        label.pack()
        return window, label

    def _request_close(self) -> None:
        self.is_closed = True

"""Self-contained HTML pages with text, tables and images in one file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
p.note { color: #666; margin-top: .2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #eee; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom-color: #999; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #666; font-size: 13px; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 1rem; }
.images figure { margin: 0; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 12px; }
.big { display: flex; gap: 2.5rem; flex-wrap: wrap; } .big div { font-size: 13px; color: #666; }
.big b { display: block; font-size: 30px; color: #222; line-height: 1.1; }
"""


class Page:
    """An HTML page. Methods append content from top to bottom."""

    def __init__(self, title: str):
        self.title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text: str) -> None:
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def key_numbers(self, values: Sequence[tuple[str, str]]) -> None:
        """Append a few large numbers: (number, description)."""
        items = "".join(
            f"<div><b>{html.escape(value)}</b>{html.escape(description)}</div>" for value, description in values
        )
        self._parts.append(f'<div class="big">{items}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def plot(self, figure: Figure, description: str) -> None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        self._parts.append(f"<figure>{_image('png', buffer.getvalue(), description)}</figure>")

    def image_file(self, path: Path, description: str) -> None:
        """Append a PNG file."""
        self._parts.append(f"<figure>{_image('png', path.read_bytes(), description)}</figure>")

    def images(self, images: Sequence[tuple[np.ndarray, str]]) -> None:
        """Append uint8 (H, W, 3) RGB images with captions, side by side."""
        figures = []
        for image, caption in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="JPEG", quality=88)
            text = html.escape(caption)
            figures.append(
                f"<figure>{_image('jpeg', buffer.getvalue(), caption)}<figcaption>{text}</figcaption></figure>"
            )
        self._parts.append(f'<div class="images">{"".join(figures)}</div>')

    def collapsible(self, summary: str, text: str) -> None:
        """Append text that is collapsed until a click."""
        self._parts.append(
            f"<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>"
        )

    def write(self, path: str | Path) -> None:
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        body = "\n".join(self._parts)
        Path(path).write_text(
            f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n', encoding="utf-8"
        )


def _image(image_format: str, content: bytes, description: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/{image_format};base64,{data}">'

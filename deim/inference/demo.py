"""A page in the browser: drop a picture, see what is found."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deim.errors import ConfigError
from deim.inference.predictor import Predictor

# What the slider can still show.
LOWEST = 0.05


def look(predictor: Predictor, picture: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
    """
    Args:
        predictor: of threshold :data:`LOWEST` or below.
        picture: uint8 (H, W, 3) RGB; None before one is chosen.
        threshold: lowest score that is shown.
        classes: only these; none for all.

    Returns:
        the picture with boxes, rows (class, score, left, top, right, bottom), and a line about the time it took.
    """
    if picture is None:
        return None, [], "Drop a picture, or choose one."
    start = time.perf_counter()
    found = predictor(picture)
    passed = time.perf_counter() - start
    shown = found[found.scores >= threshold]
    shown = shown.of_classes(classes) if classes else shown
    rows = [
        [label, f"{score:.2f}", *(round(side) for side in box)]
        for label, score, box in zip(shown.labels, shown.scores.tolist(), shown.boxes.tolist(), strict=True)
    ]
    return (
        np.asarray(shown.draw()),
        rows,
        f"{len(shown)} found in {1000 * passed:.0f} ms, {predictor.runner.description}",
    )


def build_demo(predictor: Predictor) -> Any:
    """The page, as ``gradio.Blocks``.

    Raises:
        ConfigError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the demo needs gradio: pip install '.[demo]'") from error

    def update(picture: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
        return look(predictor, picture, threshold, classes)

    with gradio.Blocks(title="deim") as page:
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(type="numpy", image_mode="RGB", label="picture")
                threshold = gradio.Slider(LOWEST, 1.0, value=0.4, step=0.01, label="threshold")
                classes = gradio.Dropdown(predictor.class_names, multiselect=True, label="only these classes")
            with gradio.Column():
                drawn = gradio.Image(label="found", interactive=False)
                told = gradio.Markdown(elem_id="told")
                columns = ["class", "score", "left", "top", "right", "bottom"]
                table = gradio.Dataframe(headers=columns, interactive=False)
        for control in (picture, threshold, classes):
            control.change(update, [picture, threshold, classes], [drawn, table, told])
    return page

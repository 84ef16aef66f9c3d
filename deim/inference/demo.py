"""Demo page for the browser: drop an image, see the detections."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deim.errors import ConfigError
from deim.inference.predictor import Predictor

# Lowest threshold of the slider.
LOWEST = 0.05


def look(predictor: Predictor, picture: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
    """Detect objects in an image and prepare the outputs of the page.

    Args:
        predictor: predictor with a threshold of at most :data:`LOWEST`.
        picture: uint8 (H, W, 3) RGB; None if no image is selected.
        threshold: minimum score.
        classes: names of the classes to show; empty for all.

    Returns:
        the image with boxes, rows (class, score, left, top, right, bottom), and a line with the inference time.
    """
    if picture is None:
        return None, [], "Drop or select an image."
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
        f"{len(shown)} detections in {1000 * passed:.0f} ms, {predictor.runner.description}",
    )


def build_demo(predictor: Predictor) -> Any:
    """Build the page, as ``gradio.Blocks``.

    Raises:
        ConfigError: if gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the demo requires gradio: pip install '.[demo]'") from error

    def update(picture: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
        return look(predictor, picture, threshold, classes)

    with gradio.Blocks(title="deim") as page:
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(type="numpy", image_mode="RGB", label="image")
                threshold = gradio.Slider(LOWEST, 1.0, value=0.4, step=0.01, label="threshold")
                classes = gradio.Dropdown(predictor.class_names, multiselect=True, label="classes (default: all)")
            with gradio.Column():
                drawn = gradio.Image(label="detections", interactive=False)
                told = gradio.Markdown(elem_id="told")
                columns = ["class", "score", "left", "top", "right", "bottom"]
                table = gradio.Dataframe(headers=columns, interactive=False)
        for control in (picture, threshold, classes):
            control.change(update, [picture, threshold, classes], [drawn, table, told])
    return page

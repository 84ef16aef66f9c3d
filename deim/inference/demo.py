"""Demo page for the browser: drop an image, see the detections."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deim.errors import ConfigError
from deim.inference.predictor import Predictor

# Lowest score threshold that the slider of the page offers.
MIN_THRESHOLD = 0.05


def detect(predictor: Predictor, image: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
    """Detect objects in an image and prepare the outputs of the page.

    Args:
        predictor: predictor with a threshold of at most :data:`MIN_THRESHOLD`.
        image: uint8 (H, W, 3) RGB; None if no image is selected.
        threshold: minimum score.
        classes: names of the classes to show; empty for all.

    Returns:
        the image with boxes, masks and skeletons, rows (class, score, left, top, right, bottom), and a line with the
        inference time.
    """
    if image is None:
        return None, [], "Drop or select an image."
    start = time.perf_counter()
    detections = predictor(image)
    seconds = time.perf_counter() - start
    selected = detections[detections.scores >= threshold]
    selected = selected.filter_classes(classes) if classes else selected
    rows = [
        [label, f"{score:.2f}", *(round(coordinate) for coordinate in box)]
        for label, score, box in zip(selected.labels, selected.scores.tolist(), selected.boxes.tolist(), strict=True)
    ]
    return (
        np.asarray(selected.draw()),
        rows,
        f"{len(selected)} detections in {1000 * seconds:.0f} ms, {predictor.runner.description}",
    )


def build_demo(predictor: Predictor) -> Any:
    """Build the page, as ``gradio.Blocks``.

    Raises:
        ConfigError: if gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the demo requires gradio: pip install 'deim[demo]'") from error

    def update(image: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple:
        return detect(predictor, image, threshold, classes)

    with gradio.Blocks(title="deim") as demo:
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(type="numpy", image_mode="RGB", label="image")
                threshold = gradio.Slider(MIN_THRESHOLD, 1.0, value=0.4, step=0.01, label="threshold")
                classes = gradio.Dropdown(predictor.class_names, multiselect=True, label="classes (default: all)")
            with gradio.Column():
                output = gradio.Image(label="detections", interactive=False, elem_id="detections")
                summary = gradio.Markdown(elem_id="summary")
                columns = ["class", "score", "left", "top", "right", "bottom"]
                table = gradio.Dataframe(headers=columns, interactive=False)
        for control in (image, threshold, classes):
            control.change(update, [image, threshold, classes], [output, table, summary])
    return demo

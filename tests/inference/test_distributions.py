"""Plots of D-FINE's edge distributions."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from deim.data.image import read_image
from deim.errors import ConfigError
from deim.inference.distributions import collect_layer_outputs, draw_edge_distributions
from deim.inference.trained_model import load_trained
from deim.structures.distribution import expected_offsets, offsets_to_boxes
from tests.commands import tool
from tests.inference.conftest import write_checkpoint


def test_distributions_match_boxes(checkpoint: Path) -> None:
    model = load_trained(str(checkpoint)).model
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs = collect_layer_outputs(model, image)
    layers, queries = outputs.boxes.shape[:2]
    assert (layers, queries) == (2, 20)
    assert outputs.probabilities.shape == (2, 20, 4, 33)
    assert outputs.scores.shape == (20, 6)
    torch.testing.assert_close(outputs.probabilities.sum(dim=-1), torch.ones(2, 20, 4))
    # Both layers refine the same initial box, so the ratio of their box sizes follows from their offsets.
    scale = model.decoder.refinement.reg_scale
    first, second = (expected_offsets(offsets.log(), outputs.bin_values) for offsets in outputs.probabilities)
    unit_boxes = (
        offsets_to_boxes(torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(20, 4), offsets, scale)
        for offsets in (first, second)
    )
    sizes = [offsets[:, 2:] for offsets in unit_boxes]
    torch.testing.assert_close(
        outputs.boxes[0, :, 2:] / outputs.boxes[1, :, 2:], sizes[0] / sizes[1], rtol=1e-3, atol=1e-4
    )
    with torch.no_grad():
        instances = model([{"image": image}])[0]["instances"]
    assert outputs.scores.max() == pytest.approx(float(instances.scores[0]), abs=1e-6)


def test_tool_draws_distributions_and_rejects_models_without_them(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "edges.png"
    process = tool(
        "draw_distributions.py", str(checkpoint), str(photos / "0.png"), "--output", str(output), "--objects", "2"
    )
    assert process.returncode == 0, process.stderr
    assert Image.open(output).size[0] > 1000
    other = load_trained(str(write_checkpoint(tmp_path / "other.pth", "rtdetr")))
    with pytest.raises(ConfigError, match="no edge distributions"):
        collect_layer_outputs(other.model, torch.from_numpy(read_image(str(photos / "0.png"))).permute(2, 0, 1))
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        draw_edge_distributions(load_trained(str(checkpoint)), photos / "0.png", str(output), 0)

"""D-FINE's edge distributions as a picture."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from deim.data.image import read_image
from deim.errors import ConfigError
from deim.inference.distributions import refine
from deim.inference.source import load_trained
from deim.structures.distribution import expected_offsets, offsets_to_boxes
from tests.commands import tool
from tests.inference.conftest import write_checkpoint


def test_the_distributions_are_those_that_the_boxes_come_from(checkpoint: Path) -> None:
    model = load_trained(str(checkpoint)).model
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = refine(model, image)
    layers, queries = found.boxes.shape[:2]
    assert (layers, queries) == (2, 20)
    assert found.probabilities.shape == (2, 20, 4, 33)
    assert found.scores.shape == (20, 6)
    torch.testing.assert_close(found.probabilities.sum(dim=-1), torch.ones(2, 20, 4))
    # both layers refine the same first box: the offsets of one and the box of it give the box of the other
    scale = model.decoder.refinement.reg_scale
    first, second = (expected_offsets(one.log(), found.bin_values) for one in found.probabilities)
    units = (offsets_to_boxes(torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(20, 4), one, scale) for one in (first, second))
    sizes = [one[:, 2:] for one in units]
    torch.testing.assert_close(found.boxes[0, :, 2:] / found.boxes[1, :, 2:], sizes[0] / sizes[1], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        instances = model([{"image": image}])[0]["instances"]
    assert found.scores.max() == pytest.approx(float(instances.scores[0]), abs=1e-6)


def test_the_tool_draws_and_tells_which_models_have_none(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "edges.png"
    done = tool(
        "draw_distributions.py", str(checkpoint), str(photos / "0.png"), "--output", str(output), "--objects", "2"
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(output).size[0] > 1000
    other = load_trained(str(write_checkpoint(tmp_path / "other.pth", "rtdetr")))
    with pytest.raises(ConfigError, match="no edge distributions"):
        refine(other.model, torch.from_numpy(read_image(str(photos / "0.png"))).permute(2, 0, 1))

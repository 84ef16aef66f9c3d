"""HTML report of a run, and comparison of runs."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from deim.analysis import precision_recall_curves
from deim.errors import DeimError
from deim.reporting.run_report import EvaluatedRun, _add_classes, write_report
from deim.visualization.comparison import compare_runs
from deim.visualization.page import Page
from tests.commands import tool, train_net


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    done = train_net(shapes, output, "train.max_iter=4", "train.eval_period=2", "train.report=true")
    assert done.returncode == 0, done.stderr
    assert f"Wrote {output}/report.html" in done.stdout
    return output


def test_train_report_writes_the_report_after_training(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    scores = [json.loads(line) for line in (run / "metrics.json").read_text(encoding="utf-8").splitlines()]
    best = max(line["bbox/AP"] for line in scores if "bbox/AP" in line)
    assert f"<b>{best:.1f}</b>AP" in text
    for heading in ("COCO metrics", "Training", "Classes", "Errors", "Images with the most errors", "Samples"):
        assert f"<h2>{heading}</h2>" in text
    for name in ("circle", "square", "triangle", "star", "ring", "cross"):
        assert f"<td>{name}</td>" in text
    assert "DEIMDetector" in text.partition("<summary>config.yaml</summary>")[2]


def test_report_is_self_contained(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 10
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in text


def test_report_command_and_its_errors(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run" / "report.html").unlink()
    done = tool("report.py", str(tmp_path / "run"), "--weights", str(run / "model_final.pth"))
    assert done.returncode == 0, done.stderr
    assert "model_final.pth" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(DeimError, match=r"holds no run: config\.yaml does not exist"):
        write_report(tmp_path)
    for file in (tmp_path / "run").glob("model_*.pth"):
        file.unlink()
    with pytest.raises(DeimError, match="has no weights yet"):
        write_report(tmp_path / "run")


def test_report_shows_the_ap_of_a_single_class(tmp_path: Path) -> None:
    evaluated = EvaluatedRun({"AP": 37.5}, [], ["box"], seconds=0.1, parameters=1)
    page = Page("report")
    _add_classes(page, evaluated, precision_recall_curves([], [], 1))
    page.write(tmp_path / "page.html")
    assert "<td>37.5</td>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_report_escapes_html(tmp_path: Path) -> None:
    page = Page("<b>")
    page.table(["<script>"], [["a & b"]])
    page.collapsible("<i>", "<u>")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    for escaped in ("a &amp; b", "<h1>&lt;b&gt;</h1>", "<summary>&lt;i&gt;</summary><pre>&lt;u&gt;</pre>"):
        assert escaped in text


def test_compare_runs(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    table = compare_runs([str(run), str(tmp_path / "other")], tmp_path / "runs.png")
    lines = table.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:4]] == ["run", "best iteration", "AP"]
    assert {line.split("|")[1].strip() for line in lines[2:4]} == {run.name, "other"}
    assert Image.open(tmp_path / "runs.png").size[0] > 500
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.json").write_text('{"iteration": 1, "total_loss": 2.0}\n')
    with pytest.raises(DeimError, match="contains no AP"):
        compare_runs([str(tmp_path / "empty")], tmp_path / "runs.png")
    with pytest.raises(DeimError, match="does not exist"):
        compare_runs([str(tmp_path / "nowhere")], tmp_path / "runs.png")

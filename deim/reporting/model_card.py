"""Model cards: ``README.md`` of a model for the Hugging Face Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from tabulate import tabulate

from deim.config.files import available
from deim.tasks import TASKS

# Task of the evaluation -> name of the task on the Hub.
_PIPELINES = {"bbox": "object-detection", "segm": "image-segmentation", "keypoints": "keypoint-detection"}


@dataclass
class ModelCard:
    """Content of a model card.

    Attributes:
        name: name of the repository.
        metadata: metadata of the model; see :mod:`deim.checkpoint.metadata`.
        license: identifier of the Hub, such as "apache-2.0".
        scores: COCO metrics in percent: {task: {metric: value}}; empty if unknown.
        datasets: names of the training and the test dataset; empty if unknown.
        image: file name of an image with detections; None for none.
        curves: file name of the plot of the training; None for none.
    """

    name: str
    metadata: Mapping[str, Any]
    license: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    image: str | None = None
    curves: str | None = None

    def text(self) -> str:
        """Return the card in Markdown, with the header that the Hub reads."""
        parts = [
            f"---\n{yaml.safe_dump(self._header(), sort_keys=False, allow_unicode=True)}---",
            f"# {self.name}",
            self._introduction(),
            f"![Detections]({self.image})" if self.image else "",
            self._usage(),
            self._results(),
            f"![Loss, learning rate and AP over iterations]({self.curves})" if self.curves else "",
            self._classes(),
            f"## License\n\n`{self.license}`",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    @property
    def _tasks(self) -> list[str]:
        decoder = self.metadata["config"]["model"].get("decoder")
        heads = (decoder.get("heads") if isinstance(decoder, Mapping) else None) or {}
        further = [task for task, head in (("segm", "masks"), ("keypoints", "keypoints")) if heads.get(head)]
        return list(dict.fromkeys(["bbox", *further, *(["keypoints"] if self.metadata.get("keypoints") else [])]))

    def _header(self) -> dict[str, Any]:
        pipelines = [_PIPELINES[task] for task in self._tasks]
        header: dict[str, Any] = {
            "license": self.license,
            "library_name": "deim",
            "pipeline_tag": pipelines[-1],
            "tags": [*pipelines, "deim", "detr", "real-time"],
        }
        if self.scores and self.datasets:
            header["model-index"] = [{"name": self.name, "results": [self._result(task) for task in self.scores]}]
        return header

    def _result(self, task: str) -> dict[str, Any]:
        dataset = self.datasets[-1]
        metrics = [{"type": name, "name": name, "value": round(value, 2)} for name, value in self.scores[task].items()]
        return {"task": {"type": _PIPELINES[task]}, "dataset": {"name": dataset, "type": dataset}, "metrics": metrics}

    def _introduction(self) -> str:
        recipe = str(self.metadata.get("recipe", ""))
        source = f"recipe `{recipe}`" if recipe in available() else f"config `{recipe}`"
        outputs = [TASKS[task] for task in self._tasks]
        listed = outputs[0] if len(outputs) == 1 else f"{', '.join(outputs[:-1])} and {outputs[-1]}"
        return (
            f"An object detector that predicts {listed}, of the {source}, in the format of "
            f"`deim` {self.metadata.get('version', '')}. The weights are in `model.safetensors`; `config.json` describes "
            "the model, and no code is needed beside the package `deim`."
        )

    def _results(self) -> str:
        if not self.scores:
            return ""
        names = list(dict.fromkeys(name for values in self.scores.values() for name in values))
        rows = [[TASKS[task], *(values.get(name) for name in names)] for task, values in self.scores.items()]
        table = tabulate(rows, headers=["task", *names], floatfmt=".1f", missingval="-", tablefmt="pipe")
        data = ""
        if self.datasets:
            data = f"Trained on `{self.datasets[0]}`, and evaluated on `{self.datasets[-1]}`. "
        return f"## Results\n\n{data}COCO metrics in percent:\n\n{table}"

    def _classes(self) -> str:
        names = [name for name in self.metadata.get("classes") or () if name]
        if not names:
            return ""
        return f"## Classes\n\n{len(names)}: " + ", ".join(f"`{name}`" for name in names)

    def _usage(self) -> str:
        recipe = self.metadata.get("recipe")
        address = f"hf://{self.name}" if "/" in self.name else self.name  # otherwise a local folder
        return (
            "## Use\n\n```python\nfrom deim import Predictor\n\n"
            f'predictor = Predictor.from_pretrained("{self.name}")\n'
            'predictor("street.jpg").draw().save("found.jpg")\n```\n\n'
            "To fine-tune the model on other data, start the training from its weights:\n\n"
            f"```bash\ndeim train --config-file {recipe if recipe in available() else 'CONFIG'} --data PATH "
            f"train.init_checkpoint={address}\n```"
        )

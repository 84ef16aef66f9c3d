"""Run detrex's ``tools/train_net.py`` on a machine without a GPU: ``python detrex_without_gpu.py <script> <arguments>``.

Its trainer asserts at each step that CUDA is available, also for float32 on the CPU. Here, the first call of
``torch.cuda.is_available`` in a step, which is that assertion, returns True. The rest of the script runs unchanged.
"""

import importlib.util
import itertools
import sys
from unittest import mock

import torch
from detectron2.engine import default_argument_parser


def main() -> None:
    path = sys.argv.pop(1)
    spec = importlib.util.spec_from_file_location("detrex_train_net", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run_step = module.Trainer.run_step

    def run_step_without_gpu(self) -> None:
        answers = itertools.chain([True], itertools.repeat(False))
        with mock.patch.object(torch.cuda, "is_available", side_effect=answers):
            run_step(self)

    module.Trainer.run_step = run_step_without_gpu
    module.main(default_argument_parser().parse_args())


if __name__ == "__main__":
    main()

"""Modules that the fork server of the tests imports in advance; see ``tests.commands.tool``."""

import importlib

for _name in (
    "torch._dynamo",
    "torch.utils.tensorboard",
    "deim.cli.train",
    "deim.reporting.run_report",
    "deim.visualization",
):
    importlib.import_module(_name)

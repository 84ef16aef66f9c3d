"""Training that ends with a report."""

import logging
from argparse import Namespace
from typing import Any

from detectron2.utils import comm

from deim.engine.run import main
from deim.engine.trackers import attach_to_trackers

logger = logging.getLogger("detectron2.deim")


def train_and_report(args: Namespace) -> None:
    """Run one rank of ``deim train``, and write ``report.html`` if ``train.report`` is set.

    Args:
        args: arguments of detectron2's parser.

    Raises:
        DeimError: if the run fails for a reason that the user can fix.
    """
    cfg = main(args)
    if cfg.train.report and not args.eval_only:
        report_run(cfg)


def report_run(cfg: Any) -> None:
    """Write ``report.html`` of a finished run.

    With several ranks, log the command that writes the report instead: each rank would evaluate only some images.
    """
    folder = cfg.train.output_dir
    if comm.get_world_size() == 1:
        from deim.reporting.run_report import write_report  # deferred: imports plotting libraries

        path = write_report(folder)
        logger.info(f"Wrote {path}")
        attach_to_trackers(cfg.train.get("trackers") or (), folder, path)
    else:
        logger.info(f"To write a report of the run: python -m deim report {folder}")

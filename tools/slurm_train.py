#!/usr/bin/env python
"""Queue a training run with SLURM. It is queued again when it is preempted or its time is over, and goes on where it was.

python tools/slurm_train.py --nodes 2 --gpus-per-node 8 --hours 24 --partition gpu -- \\
    --config-file deim_dfine/deim_dfine_l_coco train.output_dir=output/l

What follows -- goes to tools/train_net.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import deim  # noqa: F401 - first: it supplies detectron2 and detrex where they are missing
from deim.command_line import run_tool
from deim.engine.slurm import TrainingJob, submit


def main(args: argparse.Namespace) -> None:
    settings = {"nodes": args.nodes, "timeout_min": round(args.hours * 60), "cpus_per_task": args.cpus_per_node}
    if args.cluster == "slurm":
        settings["slurm_signal_delay_s"] = args.grace + 20
        if args.partition:
            settings["slurm_partition"] = args.partition
    job = submit(TrainingJob(args.arguments, args.gpus_per_node, args.grace), args.folder, args.cluster, **settings)
    print(f"queued as job {job.job_id}; output in {job.paths.stdout}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=1)
    parser.add_argument("--cpus-per-node", type=int, default=16)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--partition")
    parser.add_argument("--grace", type=int, default=100, help="seconds for the last iteration and its checkpoint")
    parser.add_argument("--folder", default="output/slurm", help="for the job's own output")
    parser.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: try it on this machine")
    parser.add_argument("arguments", nargs="+", metavar="-- --config-file ...", help="for tools/train_net.py")
    args = parser.parse_args()
    sys.exit(run_tool(lambda: main(args)))

"""Queue a training run with SLURM, which continues after each preemption.

    deim slurm --nodes 2 --gpus-per-node 8 --hours 24 --partition gpu -- \\
        --config-file deim_dfine/deim_dfine_l_coco train.output_dir=output/l

The words after -- go to deim train. Needs the extra packages of pip install 'deim[slurm]'.
"""

import argparse

from deim.engine.slurm import TrainingJob, submit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=1)
    parser.add_argument("--cpus-per-node", type=int, default=16)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--partition")
    parser.add_argument("--grace", type=int, default=100, help="seconds for the last iteration and its checkpoint")
    parser.add_argument("--folder", default="output/slurm", help="for the job's own output")
    parser.add_argument("--cluster", choices=("slurm", "local"), default="slurm", help="local: try it on this machine")
    parser.add_argument("arguments", nargs="+", metavar="-- --config-file ...", help="for deim train")


def run(args: argparse.Namespace) -> None:
    settings = {"nodes": args.nodes, "timeout_min": round(args.hours * 60), "cpus_per_task": args.cpus_per_node}
    if args.cluster == "slurm":
        settings["slurm_signal_delay_s"] = args.grace + 20
        if args.partition:
            settings["slurm_partition"] = args.partition
    job = submit(TrainingJob(args.arguments, args.gpus_per_node, args.grace), args.folder, args.cluster, **settings)
    print(f"queued as job {job.job_id}; output in {job.paths.stdout}")

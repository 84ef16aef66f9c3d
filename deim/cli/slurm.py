"""Submit a training run to SLURM that resumes after preemption.

    deim slurm --nodes 2 --gpus-per-node 8 --hours 24 --partition gpu -- \\
        --config-file deim_dfine/deim_dfine_l_coco train.output_dir=output/l

Arguments after -- are passed to deim train. Requires pip install 'deim[slurm]'.
"""

import argparse

from deim.jobs.slurm import TrainingJob, submit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes; default: %(default)s")
    parser.add_argument("--gpus-per-node", type=int, default=1, help="GPUs (ranks) per node; default: %(default)s")
    parser.add_argument("--cpus-per-node", type=int, default=16, help="CPU cores per node; default: %(default)s")
    parser.add_argument("--hours", type=float, default=24, help="time limit of the job in hours; default: %(default)s")
    parser.add_argument("--partition", help="SLURM partition; default: that of the cluster")
    parser.add_argument(
        "--grace",
        type=int,
        default=100,
        help="seconds to finish the iteration and save a checkpoint after the job is signaled to end; default: %(default)s",
    )
    parser.add_argument(
        "--folder", default="output/slurm", help="directory for the logs of the job; default: %(default)s"
    )
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local"),
        default="slurm",
        help="where to run; local: on this machine; default: %(default)s",
    )
    parser.add_argument("arguments", nargs="+", metavar="argument", help="arguments of deim train, after --")


def run(args: argparse.Namespace) -> None:
    settings = {"nodes": args.nodes, "timeout_min": round(args.hours * 60), "cpus_per_task": args.cpus_per_node}
    if args.cluster == "slurm":
        settings["slurm_signal_delay_s"] = args.grace + 20
        if args.partition:
            settings["slurm_partition"] = args.partition
    job = submit(TrainingJob(args.arguments, args.gpus_per_node, args.grace), args.folder, args.cluster, **settings)
    print(f"submitted job {job.job_id}; its output is {job.paths.stdout}")

"""Training as a SLURM job that is requeued when it is preempted or reaches its time limit."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deim.errors import ConfigError, DeimError
from deim.processes import PREEMPTED_EXIT_STATUS, deim_command, deim_environment

PORT = 29_500


@dataclass
class TrainingJob:
    """Job of one node: runs ``deim train --resume`` in a subprocess.

    Args:
        arguments: arguments of ``deim train``, except ``--resume`` and those about machines and GPUs.
        gpus_per_node: number of ranks per node.
        grace: seconds to finish the iteration and save a checkpoint after the job is signaled to end.
    """

    arguments: Sequence[str]
    gpus_per_node: int = 1
    grace: int = 100
    process: subprocess.Popen | None = field(default=None, init=False)

    def __call__(self) -> None:
        import submitit

        node = submitit.JobEnvironment()
        self.process = subprocess.Popen(
            deim_command("train", *self.command_line(node.num_nodes, node.node, node.hostnames[0])),
            env=deim_environment(),
        )
        while self.process.poll() is None:
            time.sleep(0.5)
        if self.process.returncode not in (0, PREEMPTED_EXIT_STATUS):
            raise DeimError(f"training failed with exit status {self.process.returncode}; see its output for the error")

    def command_line(self, machines: int, rank: int, first_host: str) -> list[str]:
        flags = ["--resume", f"--num-gpus={self.gpus_per_node}"]
        if machines > 1:
            url = f"tcp://{first_host}:{PORT}"
            flags += [f"--num-machines={machines}", f"--machine-rank={rank}", f"--dist-url={url}"]
        elif self.gpus_per_node > 1:
            flags.append("--dist-url=auto")
        return [*flags, *self.arguments]

    def checkpoint(self, *arguments: Any) -> Any:
        """Return the job to requeue. submitit calls this on the first node before the job ends."""
        import submitit

        if self.process is not None:
            self.process.terminate()
            for _ in range(2 * self.grace):
                if self.process.poll() is not None:
                    break
                time.sleep(0.5)
        return submitit.helpers.DelayedSubmission(TrainingJob(self.arguments, self.gpus_per_node, self.grace))


def submit(job: TrainingJob, folder: str, cluster: str, **settings: Any) -> Any:
    """Submit a job.

    Args:
        folder: directory for the logs of the job.
        cluster: "slurm", or "local" to run on this machine.
        settings: parameters of submitit's executor, such as ``nodes`` and ``timeout_min``.

    Returns:
        submitit's job handle.

    Raises:
        ConfigError: if submitit is not installed, SLURM is not available, or a setting is invalid, such as several nodes
            on this machine.
    """
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("submitting jobs requires submitit: pip install 'deim[slurm]'") from error
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name="deim", tasks_per_node=1, gpus_per_node=job.gpus_per_node, **settings)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot submit to {cluster!r}: {error}") from error
    return executor.submit(job)

"""Print versions, device and kernels in use.

    deim env

Include this output in bug reports.
"""

import argparse

from deim import env


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    env.main()

"""The command ``deim``: one file per subcommand.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args)``. Its docstring is its help. Most scripts in
``tools`` run one of these modules.
"""

from deim.cli.main import main, run_module, run_script

__all__ = ["main", "run_module", "run_script"]

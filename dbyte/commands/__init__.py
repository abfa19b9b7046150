"""The command line, a module a command: `declare` adds its arguments, `run` takes them and returns the exit status.

Heavy imports belong into `run`, so that `--help` answers at once.
"""

from dbyte.commands import evaluate, generate, notebooks, plan, readme, report, reproduce, runs, train

COMMANDS = (reproduce, train, generate, evaluate, runs, plan, notebooks, readme, report)

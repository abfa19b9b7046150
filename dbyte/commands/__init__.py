"""The command line: `declare` of a module adds commands and their arguments, `run` returns the exit status.

Heavy imports belong into `run`, so that `--help` answers at once.
"""

from dbyte.commands import checks, evaluate, generate, plan, push, reproduce, runs, scales, teacher, train, transfer

COMMANDS = (reproduce, teacher, train, transfer, generate, evaluate, push, runs, scales, plan, checks)

"""Parameters that a notebook was given: those that it has, of the types that it gives them.

papermill itself only warns of a name that a notebook does not have, and of no type.
"""

import ast
from collections.abc import Mapping, Sequence
from itertools import pairwise

GIVEN = "# Parameters\n"  # how the cell begins that papermill puts below the notebook's own parameters


def check(given: Mapping[str, object], known: Mapping[str, object], *, name: str) -> None:
    """Raise ValueError that names the first of the `given` parameters that the notebook `name` does not take.

    known: its parameters with their defaults, whose types count; where that is None, a whole number may be given.
    """
    for word, value in given.items():
        if word not in known:
            raise ValueError(f"{name} has no parameter {word!r}: it takes {', '.join(known) or 'none'}")
        kind = int if known[word] is None else type(known[word])
        if type(value) is not kind and not (value is None and known[word] is None):
            raise ValueError(f"{name}: parameter {word!r} must be {kind.__name__}, where the default is "
                             f"{known[word]!r}; found {value!r}")


def check_cells(cells: Sequence[str]) -> None:
    """Raise ValueError as `check` does where papermill has given parameters to one of our notebooks.

    cells: the sources that a kernel has run. Ours have a parameter `scale`; what others do is their own matter.
    """
    for own, given in pairwise(cells):
        if given.startswith(GIVEN) and "scale" in own:
            words, known = ({line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell).body}
                            for cell in (given, own))
            check(words, known, name="this notebook")

"""What makes the pages of the paper: notebooks are run, results kept, tables and figures drawn from them."""

import gc
import sys

from dbyte_paper.given import check_cells

# A notebook imports this right below its parameters, before anything reads them. `In` is what a kernel has run.
cells = getattr(sys.modules["__main__"], "In", ())
check_cells(cells)
if cells:
    # By now a kernel has imported torch and transformers, of whose million objects none is garbage: looking for some
    # among them takes seconds, while they are made (execution.py has it left out) and as the kernel ends.
    gc.freeze()
    gc.enable()

# nbformat imports jsonschema, which would import this where it is installed, for a format that no notebook has. As it
# is imported it makes a parser, which takes seconds, in every process that runs or reads a notebook.
sys.modules.setdefault("rfc3987_syntax", None)

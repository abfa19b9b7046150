"""What makes the pages of the paper: notebooks are run, results kept, tables and figures drawn from them."""

import sys

from dbyte_paper.given import check_cells

# A notebook imports this right below its parameters, before anything reads them. `In` is what a kernel has run.
check_cells(getattr(sys.modules["__main__"], "In", ()))

# nbformat imports jsonschema, which would import this where it is installed, for a format that no notebook has. As it
# is imported it makes a parser, which takes seconds, in every process that runs or reads a notebook.
sys.modules.setdefault("rfc3987_syntax", None)

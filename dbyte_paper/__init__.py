"""What makes the pages of the paper: notebooks are run, results kept, tables and figures drawn from them."""

import sys

from dbyte_paper.given import check_cells

# A notebook imports this right below its parameters, before anything reads them. `In` is what a kernel has run.
check_cells(getattr(sys.modules["__main__"], "In", ()))

"""What makes the pages of the paper: notebooks are run, results kept, tables and figures drawn from them."""

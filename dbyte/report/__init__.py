"""Results in, tables and figures out: nothing here trains or evaluates."""

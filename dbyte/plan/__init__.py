"""FLOPs, memory, hours and cost of a run, before it is started."""

"""Optional C++ for CPUs: the same steps, faster, chosen once where a command or a notebook begins."""

"""The byte-level student: SSD, Mamba2, block stacks, router, chunking, and the model that joins them."""

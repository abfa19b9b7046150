"""Generation: bytes in, bytes or tokens out."""

"""Text to rows: corpora, the built-in world, tokens against bytes, packing."""

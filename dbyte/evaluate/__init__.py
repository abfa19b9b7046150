"""What a model is worth: scores of text, boundaries, benchmarks by lm-evaluation-harness, and statistics."""

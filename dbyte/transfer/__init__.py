"""From one tokenizer to another: distillation over a byte interface (arXiv 2604.07466), ALM, and plain training."""

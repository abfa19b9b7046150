"""From teacher to student: losses, the curriculum as data, the training loop, and runs that are cached and resumed."""

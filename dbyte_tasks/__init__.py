"""What is asked: items and columns, without scores."""

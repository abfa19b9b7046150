"""Evaluation: lm-evaluation-harness for teacher and students, the built-in MiniBench, and errors of what they say."""

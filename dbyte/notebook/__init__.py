"""Run the notebooks under papermill, in the order of what they need."""

"""Coverage-guided fuzzing of everything that strangers write: see CONTRIBUTING.rst."""

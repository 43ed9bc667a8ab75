"""A host with NVIDIA GPUs that is none: see README.md for what it proves and what only real hardware proves."""

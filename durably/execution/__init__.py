"""Inside one run: its steps, checkpoints, progress and log lines."""

"""Maps: call a function for each item of an iterable, and keep each result as a checkpoint."""

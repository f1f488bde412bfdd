"""The measured systems: one program each, started afresh for every measurement."""

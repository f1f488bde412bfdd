"""Kernel locks: who may write, who is alive, what keeps SQLite's own locks."""

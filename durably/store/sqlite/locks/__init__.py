"""Kernel locks: for writing, for being alive, and to protect SQLite's own locks."""

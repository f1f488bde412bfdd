"""Noticing commits of other processes, and waking threads of this one."""

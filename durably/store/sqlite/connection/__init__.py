"""Connections: opening the file, group commit, reading."""

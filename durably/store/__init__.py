"""Everything that touches SQLite: every statement and every connection of the project."""

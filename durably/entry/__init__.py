"""The ways in that open an engine of their own: a session, a script in one line."""

"""The ways in: an engine, a session, a script in one line; how each opens its file."""

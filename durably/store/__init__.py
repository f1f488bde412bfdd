"""The store: its interface in ``api``, and the implementation on SQLite with every statement."""

"""The files beside a database that hold what is too large for its tables."""

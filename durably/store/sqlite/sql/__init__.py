"""All SQL statements: the schema, and the verbs as functions of a connection."""

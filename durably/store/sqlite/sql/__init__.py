"""Every statement: the schema, and the verbs as functions of a connection."""

"""What a caller asks of the database: submit, query, control, wait, subscribe."""

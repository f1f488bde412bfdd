"""The connections to the file: opening, group commit, reading."""

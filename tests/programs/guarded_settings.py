"""A module with the engine of a project, which ``guarded.py`` imports."""

import durably

app = durably.Durably("settings.db")

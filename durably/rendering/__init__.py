"""What objects show of themselves: HTML for notebooks, frames for pandas, pictures.

It knows plain rows and values, and nothing of runs or engines. Only ``shown`` is imported with
durably; the rest is imported when something is shown.
"""

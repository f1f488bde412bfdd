"""The forms of other packages' types: a module for each, imported for a value or tag of its own."""

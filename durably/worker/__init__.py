"""The threads of an engine, and what they do: claim, execute, stay alive, recover."""

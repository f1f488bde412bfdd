"""The threads of an engine: they claim, execute, mark the engine as alive, and recover."""

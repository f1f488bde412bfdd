"""What the operating system and the interpreter do: signals, forks, clocks, ids."""

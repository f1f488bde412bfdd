"""Display the progress of runs in a terminal, in a notebook, or by a sink of the user's."""

"""Which cells are asked for, which are recorded, what is left to do and what it costs."""

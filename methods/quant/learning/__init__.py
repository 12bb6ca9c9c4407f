"""Learning unit by unit: what is learned, against which target and loss, in which steps, and how it ends."""

"""Images on disk: where they lie, what is right for each, and their pixels."""

"""Words in, terminal out: the arguments commands share, how a run is shown, lists of what there is."""

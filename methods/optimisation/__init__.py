"""What methods share: the optimisation loop, views, losses."""

"""A finished study's front: the points that are asked for, and where their models run."""

"""From a trained network to numbers: one pass over a split, and average precision."""

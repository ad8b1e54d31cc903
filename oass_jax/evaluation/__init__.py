"""From a trained network to numbers: one pass over a split, average precision, and class maps."""

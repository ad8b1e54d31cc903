"""Where photographs come from: one file a data set, and the registry of their names."""

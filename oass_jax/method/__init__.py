"""The mathematics of the paper, section by section: no config and no files."""

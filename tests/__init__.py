"""The tests. A package, so that one of this name among the installed ones is not taken for it."""

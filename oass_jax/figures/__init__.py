"""Finished runs -> what a person looks at. Reads workdirs and never imports jax."""

"""`report.html`: what an evaluation found, for people. No jax, and nothing of the web."""

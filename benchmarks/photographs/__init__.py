"""The study on photographs: what is measured of its runs, and the tables made of it."""

"""What comes in: images and labels as NumPy batches. Nothing here imports jax.

`sources` has the data sets and the registry of their names, `prepare` prepares those of tfds
(without TensorFlow), `pipeline` opens a split of any and turns it into batches, the same for any
number of threads, workers and hosts.
"""

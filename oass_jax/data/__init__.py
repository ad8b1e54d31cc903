"""What comes in: photographs and labels as NumPy batches. Nothing here imports jax.

`voc` and `digit_scenes` are tfds builders that need no TensorFlow, `prepare` turns a name into a
prepared data set, `pipeline` turns a prepared split into batches, the same for any number of
threads, workers and hosts.
"""

"""What a run is: its folder, its state, its checkpoints, and its parts built from the config."""

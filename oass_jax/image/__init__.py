"""Resampling on the device: windows of images into windows of canvases."""

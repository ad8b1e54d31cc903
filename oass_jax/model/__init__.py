"""The network: encoder f, head g, and the pretrained weights f starts from."""

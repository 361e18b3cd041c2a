"""Image backbones; one family a file."""

"""What networks are put together from: trunks, blocks, patches, pooling, dense layers, initial values."""

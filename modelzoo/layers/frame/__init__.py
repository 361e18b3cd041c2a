"""The frame of a network: trunks, blocks, patches, pooling, dense layers, initial values."""

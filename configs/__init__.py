"""One file per paper: what to train, on what, how. Plain data; objects are named by import path."""

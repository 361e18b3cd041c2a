"""Networks for sequences, one family a file; `trunk.py` is what they share."""

"""Networks that read sets of points; one family per file."""

"""Networks that take noise out of images, for generation and restoration; one family per file."""

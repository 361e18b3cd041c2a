"""Text encoders: networks that read words with a padding mask; one family per file."""

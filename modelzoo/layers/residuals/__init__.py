"""The stream between blocks: how a branch reads from it and writes to it."""

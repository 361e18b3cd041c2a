"""Self-supervised objectives: backbone -> Task, without labels."""

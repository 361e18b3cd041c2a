"""Attention among the places of an image, and their positions."""

"""Continual learning: classes that come session by session (data/sessions.py), and what is left of earlier ones."""

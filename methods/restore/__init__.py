"""Objectives that give degraded images back as they were."""

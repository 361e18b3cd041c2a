"""Objectives of dense tasks: what is at each pixel, and where things are."""

"""Ops whose speed depends on how they are lowered: a folder each, several implementations."""

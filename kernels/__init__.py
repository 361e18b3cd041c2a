"""Cores whose speed depends on how they are lowered: one folder an op, one signature, several implementations."""

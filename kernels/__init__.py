"""Ops whose speed depends on how they are lowered: a folder each, several implementations."""

from longview.names import check

check(__name__)

"""Ops with several implementations, one folder per op; their speed depends on how they are lowered."""

from longview.names import check

check(__name__)

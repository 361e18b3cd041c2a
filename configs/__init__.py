"""One file per paper: what to train, on what, how. Plain data; objects are named by import path."""

from longview.names import check

check(__name__)

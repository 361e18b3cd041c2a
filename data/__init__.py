"""Our own TFDS builders and the host code that turns their records into arrays."""

from longview.names import check

check(__name__)

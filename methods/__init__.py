"""Training methods: objectives, reparametrisations, optimizers and batch transforms that fit any backbone."""

from longview.names import check

check(__name__)

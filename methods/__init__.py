"""Training methods: objectives, reparametrisations, optimizers and batch transforms that fit any backbone."""

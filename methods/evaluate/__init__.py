"""Evaluators of features: Task -> Task, so that they run in the step, on the mesh, beside whatever is trained."""

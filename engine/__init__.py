"""What brings methods and runtime together: the training loop, evaluations, stages, and finished runs opened again."""

from longview import names

names.check(__name__)

"""Figures of an evaluation beyond the mean of one number an example, as pure functions for `Task`s.

What is counted on the device takes the batch's mask and returns sums, which may be added over batches; what finishes a
figure is NumPy on the host, from added sums or from the rows of a whole split, and is NaN where there is nothing to
divide by. docs/figures.md lists them with the conventions of each.
"""

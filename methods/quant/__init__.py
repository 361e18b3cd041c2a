"""Quantisation: Task -> Task, weights as the integers that will be deployed."""

"""Objectives that compare two kinds of data, such as images and captions: two backbones -> Task."""

"""Clasificador: from a set of images to a classifier, one module per DVC stage."""

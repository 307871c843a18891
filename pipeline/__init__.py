"""Clasificador: from a set of images to a classifier, as stages and commands; their code is in the rooms."""

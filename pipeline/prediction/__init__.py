"""What a model says of files that belong to no data set: finding, decoding, answers, tables, scores, explanations."""

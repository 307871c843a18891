"""The pages of a data set: what check and audit found, and how the images are split; and what other pages extend."""

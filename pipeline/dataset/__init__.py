"""The packed data set: reading it, batches, augmentation."""

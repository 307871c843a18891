"""Which images belong together, which side they are on, where classes are cut, and what a person decides."""

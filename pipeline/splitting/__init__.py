"""How `split` groups images and draws their sides, and what a person decides."""

"""What a trained network predicts: the model from its files, inference, metrics and figures."""

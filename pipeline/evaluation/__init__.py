"""What a trained network predicts: the model from its files, inference, calibration, metrics, slices, figures."""

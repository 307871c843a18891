"""What a trained network says of images: predictions, figures."""

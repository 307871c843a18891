"""The training loop and its parts; imports torch and numpy, nothing of DVC, MLflow or pydantic."""

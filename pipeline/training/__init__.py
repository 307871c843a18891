"""The training loop and its parts; imports torch, numpy and pyarrow, nothing of DVC, MLflow or pydantic."""

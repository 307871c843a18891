"""Results as their files tell them, and their view in MLflow."""

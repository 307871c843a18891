"""Read results from their files and log them to MLflow."""

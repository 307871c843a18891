"""`params.yaml` as typed objects, read and validated."""

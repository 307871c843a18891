"""A trained model for people and programs without this project: ONNX, torch.export, a model card."""

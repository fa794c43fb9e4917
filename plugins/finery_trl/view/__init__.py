"""What a trained model looks like: its curve, and a verdict on it."""

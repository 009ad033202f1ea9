"""What looks at a model before training, or between its steps."""

"""What the model looks at, and whether the explanation is faithful."""

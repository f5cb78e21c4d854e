"""Products of smaller matrices and tensors."""

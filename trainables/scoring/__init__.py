"""What a model did on each example, and how sure a difference is."""

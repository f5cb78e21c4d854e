"""What the commands print while they run and at their end."""

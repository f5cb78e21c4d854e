"""What the fields of a config hold, as people write them, and what is wrong with it."""

"""A study's folder on any file system: its files, who may write, how much room there is."""

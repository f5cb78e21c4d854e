"""What a study may try: parameters, the options of each plugin, and the space that they span."""

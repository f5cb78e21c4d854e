"""From records to fronts, statistics and reports. No torch, no Ray."""

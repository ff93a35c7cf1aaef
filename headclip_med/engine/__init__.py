"""A volume → its anomaly map, slice scores and findings."""

"""Many cases: reading, scoring and writing at once, resumed runs, archives."""

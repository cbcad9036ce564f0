"""What drives an arm: robots, devices, processes, views and records, built from typed settings."""

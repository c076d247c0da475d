"""What the paper says: published numbers, its protocol, names and order of its sets, models and losses."""

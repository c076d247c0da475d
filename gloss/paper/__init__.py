"""The paper's published numbers, and the names and order of its data sets, models and losses."""

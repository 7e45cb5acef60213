"""Random pipelines, what they should give, and whether they do."""

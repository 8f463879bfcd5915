"""One data set a file; each registers itself by name."""

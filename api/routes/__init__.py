"""One file a group of endpoints: paths, bodies and statuses, and the function that serves them."""

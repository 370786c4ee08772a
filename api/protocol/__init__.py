"""The shapes of requests and answers, and the written lists of what is refused and what has no effect."""

"""Generation: requests in, completions out. Knows nothing of queues, stores or tasks."""

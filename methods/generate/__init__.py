"""Generation: tasks that learn to make examples, how these are drawn, and how near they come to the data."""

"""xinv measures what a model's explanations give away, and hardens them."""

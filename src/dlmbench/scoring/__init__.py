"""What metrics share: their settings, the scored span of a text, n-grams, and judges."""

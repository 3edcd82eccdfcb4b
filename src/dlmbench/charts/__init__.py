"""What figures share: points as tables, one style, and writing them to files."""

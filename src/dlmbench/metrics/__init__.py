"""Quality metrics, one file each: name, unit, direction, what they need, and score()."""

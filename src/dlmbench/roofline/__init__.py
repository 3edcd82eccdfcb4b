"""Cost models: the published roofline to the digit, and a corrected one that predicts measurements; no torch."""

"""Training: settings, the loop, and what the loop calls."""

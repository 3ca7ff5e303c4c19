"""Teaching: what the model computes, made visible."""

"""Code that the readers and writers of all formats share."""

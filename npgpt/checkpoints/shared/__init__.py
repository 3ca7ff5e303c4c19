"""What the readers and writers of all formats share."""

"""Configurations: `default` holds every field, each other file is a page that says what differs."""

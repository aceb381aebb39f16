"""The commands of ``mdssl``: a settings class and a function for each, by subject."""

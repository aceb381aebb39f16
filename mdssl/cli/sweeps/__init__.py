"""The commands ``mdssl sweep``: what varies in each, as a settings class and a function."""

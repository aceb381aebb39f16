"""The table of results: its columns, its files, and the rows of each trial."""

from mdssl.leaderboard.board import read

__all__ = ["read"]

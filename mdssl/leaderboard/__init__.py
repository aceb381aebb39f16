"""The table of results: its columns, its files, and the rows that stand for a trial."""

from mdssl.leaderboard.board import read

__all__ = ["read"]

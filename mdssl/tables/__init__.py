"""Rows of the leaderboard compared, averaged and printed."""

"""What the trials gave: the Parquet leaderboard, and the tables that are made of it."""

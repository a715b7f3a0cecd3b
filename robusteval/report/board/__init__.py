"""Runs as the rows of a leaderboard: scores, ranks, costs, what to know before comparing. Nothing here formats."""

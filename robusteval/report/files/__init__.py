"""The leaderboard and all measurements as files for other programs, and as a table for the terminal."""

"""The report: a leaderboard as a folder of HTML pages that open without a network or a server.

Each page contains its style and script, and its content security policy allows nothing else. Figures are files beside
the pages. The folder records what each file was made from, so that only outdated files are written again.
"""

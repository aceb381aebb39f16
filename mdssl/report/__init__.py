"""The report: a leaderboard as a folder of HTML pages that open without a network or a server.

Each page stands by itself: its style and script are inside it, and its policy allows nothing else. Figures are files
beside the pages. What a page was made from is remembered in the folder, so that only what changed is written again.
"""

"""Search: choose the trials of a sweep one by one, and stop those early that fall behind.

The storage is the only state. `history` reads from it what is known of the space (`space`), by whichever sweep; a
`sampler` chooses the next point from that alone, and a `rule` decides from that alone which trial ends early. So a
search that was killed resumes, and two searches share their results.
"""

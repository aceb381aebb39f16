"""Files in folders and buckets, their ownership, and claims on trials."""

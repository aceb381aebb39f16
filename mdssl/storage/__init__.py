"""Files in folders and buckets, who owns them, and who works on a trial."""

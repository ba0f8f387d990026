"""A store of files that all hosts reach, in any bucket of an S3-compatible server. A home is then a cache of it."""

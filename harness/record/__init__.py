"""What lies in a results folder: records, their keys and validation, the cache."""

"""From records to measurements, statistics and tables."""

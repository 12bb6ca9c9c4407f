"""Methods: how calibration images are made, one file each."""

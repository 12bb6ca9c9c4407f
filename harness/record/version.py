"""The version of this project, which `--version` tells and the build reads."""

VERSION = "0.1.0"

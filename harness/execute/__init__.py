"""Who runs what, when and where: the order of jobs, claims, the local executor and Ray's."""

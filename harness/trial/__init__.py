"""One job: FP32 reference, synthesis or cell, and the record it leaves."""

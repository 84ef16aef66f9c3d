"""Detection and reading of annotation-tool formats."""

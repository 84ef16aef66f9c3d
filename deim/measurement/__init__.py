"""Parameters, operations and latency of a recipe's model."""

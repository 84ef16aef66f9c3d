"""Training with less time or memory: CUDA graphs, activation checkpointing, memory of the CPU."""

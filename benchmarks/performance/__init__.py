"""`make performance`: the benchmarks of speed and size, and their tables in docs/performance.md."""

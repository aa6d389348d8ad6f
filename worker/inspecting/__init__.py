"""The inspecting worker: reads uploaded teachers in a sandboxed process."""

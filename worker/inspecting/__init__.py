"""The inspecting worker: reads uploads in a sandboxed process."""

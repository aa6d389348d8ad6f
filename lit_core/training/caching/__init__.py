"""The cached teacher: what the teacher makes of views of samples is kept on disk, and read instead of run again."""

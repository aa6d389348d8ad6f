"""What a worker and its trainer exchange: files of the job folder, messages, run.json and report.json."""

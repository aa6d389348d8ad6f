"""What the resources share: problems, bodies, pages, ETags, long polls, downloads, authentication."""

"""The files of uploads and jobs: the storage itself, the layout of its keys, and its marker."""

"""The web page: static files of this folder, and the script of plotly from its installed package."""

"""/v1/studies"""

"""/v1/uploads"""

"""/v1/jobs"""

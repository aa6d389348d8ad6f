"""/v1/architectures"""

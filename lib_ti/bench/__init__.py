"""Measurements that back every figure the project states."""

"""Speed, memory and accuracy against other ways to the same products.

All contenders of a comparison run in one process and take turns, so that a busy machine slows
them alike; what is reported are ratios of medians, with the times as information.
"""

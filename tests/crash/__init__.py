"""What a kill leaves on the disk, at every write of every command, and what a resume makes of it.

`python -m tests.crash` (`make crash`) tries all of it; `test_crash.py` a part.
"""

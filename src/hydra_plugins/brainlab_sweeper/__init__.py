"""The sweeper that checks every combination before it starts one."""

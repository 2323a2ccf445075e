"""Numbers recorded from official code, and the inputs they were computed from."""

"""The IPU Model: a drop-in PopTorch that computes on the CPU what IPUs would compute."""

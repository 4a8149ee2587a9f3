"""What ``Options`` is made of: setters by subject, and what the backend says to values."""
